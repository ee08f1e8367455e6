"""Frechet distance of students by how their layers are selected, at the FLOPs of every second layer.

Usage: python benchmarks/selection.py [--out DIR] [--short] [--seeds 0 1 2] [--device cuda] [--save]

In digits-dit the attention of four of eight layers is replaced by Hyena-X. Which four: every second one, the most local
ones by `surgery analyze`, the deepest, random ones, or those that `surgery search` finds under the FLOPs of the first.
Each selection is distilled and finetuned with each of three seeds, and judged by the Frechet distance; random layers
differ from seed to seed, and each seed has a search of its own. What is done is kept in DIR, runs/selection by default;
the command may be interrupted and repeated, and several may work side by side on seeds of their own. --short trains less;
--save writes results/selection.json from all that DIR has.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from machine import save

from surgery.files import write_atomically
from surgery.operators import HyenaX
from surgery.progress import RichProgress
from surgery.recipe import Budget, Distil, Evaluate, Finetune, Recipe, Search
from surgery.rewriting import Selection, all_layers, every, indices
from surgery.rewriting.commit import commit
from surgery.rewriting.edit import new_paths
from surgery.rules import replace_attention
from surgery.run.analyze import analyze
from surgery.run.measure import Measuring
from surgery.run.prepare import plan_recipe, prepare
from surgery.run.search import search
from surgery.run.subject_to_analyze import Sampling, analyzed
from surgery.training.checkpoint import CheckpointStore
from surgery.training.distil import distil, sites_of
from surgery.training.finetune import finetune

OPERATOR = HyenaX(kernel=17)
"""Two rows up and down; longer filters cost more than the attention of 64 tokens."""
LAYERS = 8
METHODS = ("search", "interleaved", "top-local", "deepest", "random")


@dataclass(frozen=True)
class Setting:
    """How long students are trained, and by how many samples they are judged."""

    distil: int = 200
    finetune: int = 240
    batch_size: int = 32
    samples: int = 1000
    sampling_steps: int = 10
    search_steps: int = 60
    shortlist: int = 3


SHORT = Setting(distil=60, finetune=80, batch_size=16, samples=400, sampling_steps=5, search_steps=30)


def recipe_of(layers: Selection, seed: int, setting: Setting) -> Recipe:
    """The recipe that replaces the attention of these layers."""
    return Recipe(
        model="digits-dit",
        rules=[replace_attention(OPERATOR, layers=layers, inherit="random")],
        distil=Distil(steps=setting.distil, batch_size=setting.batch_size, lr=1.5e-2, checkpoint_every=setting.distil),
        finetune=Finetune(
            steps=setting.finetune, batch_size=setting.batch_size, lr=5e-3, optimizer="muon", inherited_lr=0.3,
            ema_decay=0.98, target="teacher", checkpoint_every=40,
        ),
        evaluate=Evaluate(samples=setting.samples, steps=setting.sampling_steps, batch_size=50),
        seed=seed,
    )  # fmt: skip


def most_local(count: int) -> tuple[int, ...]:
    """The layers whose attention is the most local."""
    sampling = Sampling()
    found = analyze("digits-dit", analyzed("digits-dit", sampling), sampling, None, RichProgress())
    ranked = sorted(found["layers"], key=lambda layer: -layer["locality"])
    return tuple(sorted(layer["layer"] for layer in ranked[:count]))


def searched(seed: int, setting: Setting, folder: Path, device: str) -> tuple[int, ...]:
    """The layers that a search finds under the FLOPs of every second layer."""
    allowed = plan_recipe(recipe_of(every(2), seed, setting)).after.flops
    asked = Search(budget=Budget(flops=float(allowed)), shortlist=setting.shortlist, steps=setting.search_steps)
    recipe = recipe_of(all_layers(), seed, setting).model_copy(update={"search": asked})
    found = search(recipe, folder / f"search-{seed}", resume=True, device=device, progress=RichProgress())
    layers = {option.key: option.layer for option in found.candidates}
    return tuple(sorted(layers[key] for key in found.best.candidates if layers[key] is not None))


def selected(method: str, seed: int, setting: Setting, folder: Path, device: str) -> tuple[int, ...]:
    """The layers of one method; a random selection is that of the seed."""
    count = LAYERS // 2
    ways: dict[str, Callable[[], tuple[int, ...]]] = {
        "search": lambda: searched(seed, setting, folder, device),
        "interleaved": lambda: tuple(range(1, LAYERS, 2)),
        "top-local": lambda: most_local(count),
        "deepest": lambda: tuple(range(LAYERS - count, LAYERS)),
        "random": lambda: tuple(sorted(random.Random(seed).sample(range(LAYERS), count))),
    }
    return ways[method]()


def frechet(layers: tuple[int, ...], seed: int, setting: Setting, folder: Path, device: str) -> float:
    """The Frechet distance of the student with these layers replaced, after both stages."""
    prepared = prepare(recipe_of(indices(*layers), seed, setting), device)
    recipe, teacher, edits = prepared.recipe, prepared.teacher.model, prepared.plan.edits
    student = commit(prepared.graph, edits, seed, prepared.recordings)
    store, progress = CheckpointStore(folder / f"{'-'.join(map(str, layers))}-seed-{seed}"), RichProgress()
    common: dict[str, Any] = {"seed": seed, "checkpoints": store, "progress": progress}
    distil(teacher, student, sites_of(edits, teacher, student), prepared.data, recipe.distil, **common)
    finetune(teacher, student, new_paths(edits), prepared.data, recipe.finetune, **common)
    first = replace(prepared, metrics=prepared.metrics[:1])
    measuring = Measuring(first, progress)
    return float(first.metrics[0].compute(measuring.context("finetuned", student)))


def measure(seed: int, setting: Setting, folder: Path, device: str) -> None:
    """Every method with this seed; what the folder has is not done again."""
    for method in METHODS:
        path = folder / f"{method}-{seed}.json"
        if path.exists():
            continue
        layers = selected(method, seed, setting, folder, device)
        same = [
            run["frechet"] for run in runs_in(folder, setting) if run["layers"] == list(layers) and run["seed"] == seed
        ]
        value = same[0] if same else frechet(layers, seed, setting, folder, device)
        run = {"method": method, "seed": seed, "layers": list(layers), "frechet": value, "device": device}
        write_atomically(path, json.dumps({"setting": asdict(setting), "run": run}, indent=2).encode() + b"\n")
        print(f"{method:12} seed {seed}: layers {layers}, Frechet distance {value:.3f}", file=sys.stderr)


def runs_in(folder: Path, setting: Setting) -> list[dict[str, Any]]:
    """What the folder has, by method and seed."""
    found = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*-[0-9]*.json"))}
    for path, content in found.items():
        if content["setting"] != asdict(setting):
            sys.exit(f"{path}: holds another setting; choose another --out")
    return [content["run"] for content in found.values()]


def table(found: list[dict[str, Any]]) -> str:
    """Median and range of each method, as the documentation shows them."""
    lines = ["| selection | layers | Frechet distance, median | of each seed |", "|---|---|---|---|"]
    by_method = {method: [run for run in found if run["method"] == method] for method in METHODS}
    for method, runs in by_method.items():
        if not runs:
            continue
        values = [run["frechet"] for run in runs]
        layers = dict.fromkeys(", ".join(map(str, run["layers"])) for run in runs)
        each = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {method} | {'; '.join(layers)} | {statistics.median(values):.2f} | {each} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/selection"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    setting = SHORT if arguments.short else Setting()
    for seed in arguments.seeds:
        measure(seed, setting, arguments.out, arguments.device)
    found = runs_in(arguments.out, setting)
    print(table(found))
    if arguments.save:
        print(save("selection", {"setting": asdict(setting), "runs": found}))


if __name__ == "__main__":
    main()
