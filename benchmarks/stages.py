"""Steps a second and peak memory of both stages of DiT-XL/2 on a GPU, beside what a plan states before.

Usage: python benchmarks/stages.py --rows FILE [--device cuda] [--smoke] [CASE ...]

The model of recipes/dit_xl2_hyena_x_50.py with random weights: 256 x 256 pixels, 14 of its 28 layers replaced, bfloat16,
64 samples in a batch; the training is the tool's own. Each case, "distil", "finetune" or one of these with "_compiled",
adds a row to FILE: steps a second after a few to warm up, the seconds of the first step, compilation included, the bytes
that were allocated at most, and what `surgery plan --gpus 1 --memory 80GB` and the rehearsal of `--dry-run` state.
--smoke takes two layers and two samples, and looks for errors only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import rows
import torch
from memory import Given

import surgery
from surgery.models import load_random
from surgery.models.inputs import example_inputs
from surgery.recipe import Recipe, load_recipe
from surgery.rewriting.commit import commit
from surgery.rewriting.edit import new_paths
from surgery.run.scale import USED, Scale
from surgery.training.distil import distil, sites_of
from surgery.training.finetune import finetune
from surgery.training.imitate import imitable
from surgery.training.rehearse import Rehearsal, StageMemory

RECIPE = Path(__file__).parents[1] / "recipes" / "dit_xl2_hyena_x_50.py"
MODEL = "facebook/DiT-XL-2-256"
SETTINGS = ("dtype=bfloat16", "distil.batch_size=64", "finetune.batch_size=64")
CASES = ("distil", "finetune", "finetune_compiled", "distil_compiled")
WARM_UP, TIMED = 3, 10
GPU = 80 * 10**9
TINY = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "norm_num_groups": 1}


class Clock:
    """A progress that notes when each step ends; from the last step of the warm-up on, nothing else is measured."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self._alone = ExitStack()

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Clock]:  # noqa: ARG002
        self.ends.append(time.perf_counter())
        with self._alone:
            yield self

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:  # noqa: ARG002
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if len(self.ends) == WARM_UP:
            self._alone.enter_context(rows.alone())
        self.ends.append(time.perf_counter())

    def figures(self) -> dict[str, float]:
        """The first step takes the last ones' time and what is done once."""
        steps = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return {"steps_a_second": 1 / statistics.median(steps[WARM_UP:]), "first_step": steps[0]}


def measure(case: str, recipe: Recipe, teacher: Any, samples: int) -> dict[str, Any]:
    """The figures of one case."""
    stage, _, compiled = case.partition("_")
    device, dtype = teacher.device.type, teacher.dtype
    inputs = {name: _as(value, dtype) for name, value in example_inputs(teacher, samples).items()}
    graph = surgery.trace(teacher, inputs)
    edits = surgery.plan(graph, recipe.rules).edits
    student = commit(graph, edits, recipe.seed, shared=True)
    steps = {"steps": WARM_UP + TIMED, "checkpoint_every": 10**9, "batch_size": samples}
    steps |= {"compile": True} if compiled else {}
    config: Any = getattr(recipe, stage).model_copy(update=steps)
    rehearsal = Rehearsal(teacher, student, edits, inputs)
    blocks = imitable(graph, student)
    stated = rehearsal.distil(config) if stage == "distil" else rehearsal.finetune(config, blocks)
    assert isinstance(stated, StageMemory)
    clock, data = Clock(), Given(inputs)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if stage == "distil":
        sites = sites_of(edits, teacher, student)
        records = distil(teacher, student, sites, data, config, seed=0, progress=clock)
    else:
        records = finetune(teacher, student, new_paths(edits), data, config, seed=0, progress=clock)
    measured = torch.cuda.max_memory_allocated() if device == "cuda" else None
    losses = {"first_loss": records[0].loss, "last_loss": records[-1].loss}
    return {**clock.figures(), "measured": measured, "stated": stated.total, "parts": vars(stated), **losses}


def _as(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def planned(recipe: Recipe) -> dict[str, Any]:
    """What `surgery plan --gpus 1 --memory 80GB` states of each stage: bytes, and steps a second; and what it assumes."""
    stages = {
        each.stage: {"memory": each.memory, "steps_a_second": getattr(recipe, each.stage).steps / each.seconds}
        for each in Scale(recipe).stages(1, GPU)
    }
    return {**stages, "used": USED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--limit", type=float, default=150, help="seconds of a case")
    parser.add_argument("cases", nargs="*", default=CASES)
    options = parser.parse_args()
    recipe = load_recipe(RECIPE, SETTINGS)
    samples = 2 if options.smoke else recipe.distil.batch_size
    for case in options.cases:
        what = {"benchmark": "stages", "case": case, "samples": samples}
        with rows.measured(options.rows, options.limit, **what) as row:
            teacher = made(options.device, TINY if options.smoke else {})
            row |= measure(case, recipe, teacher, samples)
    if not options.smoke and "distil" in options.cases:
        with rows.measured(options.rows, options.limit, benchmark="stages", case="plan") as row:
            row |= planned(recipe)


def made(device: str, changes: dict[str, Any]) -> Any:
    """The model with random weights, made where it is needed."""
    with torch.device(device):
        if changes:
            import diffusers

            from surgery.models.presets import preset

            config = {**(preset(MODEL) or {}), **changes}
            return getattr(diffusers, config["_class_name"]).from_config(config).eval().to(torch.bfloat16)
        return load_random(MODEL).to(torch.bfloat16)


if __name__ == "__main__":
    main()
