"""Stage 1 alone: each operator distilled on `digits-dit` with each inheritance policy, at one budget.

Usage: python benchmarks/distil.py [--json] [--save]

The attention or the MLP of every second layer is replaced and distilled as in a run; see `Setting`. Each operator learns
at both learning rates with each policy, and the lower held-out loss counts. Losses are shares: 1 is the loss of
operators that return zeros. With --save each row is kept in results/distil.json when it is measured, an interrupted
call goes on there, and at the end docs/distil.md and its picture are made of it; delete the file to measure anew. The
last line with --json is {"setting": {...}, "teacher": {"frechet": f}, "rows": {"OPERATOR": {"policies": {"random":
{"start": s, "loss": l, "lr": r, "frechet": f, ...}, ..., "exact": {"refused": "why"}}, ...}, ...}}.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import distil_page
import torch
from machine import RESULTS, machine, save
from torch import nn

from surgery import operators as ops
from surgery.digits.judge import evaluate_samples, shipped_judge
from surgery.errors import RewriteError
from surgery.losses import LOSSES
from surgery.models import load_pretrained
from surgery.operators import MixerConfig, OperatorConfig, Policy
from surgery.recipe import Recipe
from surgery.rewriting import every
from surgery.rewriting.commit import commit
from surgery.rules import replace_attention, replace_mlp
from surgery.run.prepare import Prepared, prepare
from surgery.training.distil import STAGE, Distil, Site, distil, sites_of
from surgery.training.source import predict

POLICIES: tuple[Policy, ...] = ("random", "projections", "exact")
Figures = dict[str, Any]
Keep = Callable[[Figures], object]


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    model: str = "digits-dit"
    data: str = "digits"
    every: int = 2
    steps: int = 50
    batch_size: int = 32
    rates: tuple[float, ...] = (1e-2, 3e-2)
    samples: int = 500
    ddim_steps: int = 10
    seed: int = 0


def operators() -> dict[str, OperatorConfig]:
    """What is measured: where it is local, with a reach of 25 tokens, 5 x 5 on the grid."""
    return {
        "full": ops.FullAttention(),
        "grouped query": ops.GroupedQueryAttention(groups=2),
        "window": ops.SlidingWindow(window=12),
        "neighbourhood": ops.NeighbourhoodAttention(window=5),
        "neighbourhood, all": ops.NeighbourhoodAttention(window=9, grid=(8, 8)),
        "linear": ops.LinearAttention(),
        "linear, learned": ops.LinearAttention(features="learned"),
        "linear, depthwise": ops.LinearAttention(depthwise=5, axes=2),
        "Hyena-SE": ops.HyenaSE(kernel=25),
        "Hyena-X": ops.HyenaX(kernel=25),
        "Hyena-Y": ops.HyenaY(kernel=25),
        "Hyena-SE, grid": ops.HyenaSE(kernel=5, axes=2),
        "Hyena-X, grid": ops.HyenaX(kernel=5, axes=2),
        "Hyena-Y, grid": ops.HyenaY(kernel=5, axes=2),
        "Mamba-2": ops.Mamba2(),
        "Mamba-2, causal": ops.Mamba2(causal=True),
        "MLP, narrower": ops.MLP(ratio=3),
        "MLP, wider": ops.MLP(ratio=6),
        "SwiGLU": ops.GatedMLP(ratio=8 / 3),
        "GEGLU": ops.GatedMLP(ratio=4, gate="geglu"),
        "ConvMLP": ops.ConvMLP(ratio=4),
        "Hyena-X MLP": ops.HyenaXMLP(),
    }


def written(config: OperatorConfig) -> str:
    """The config as a recipe has it."""
    fields = ", ".join(f"{name}={_value(value)}" for name, value in config.model_dump(exclude_defaults=True).items())
    return f"{type(config).__name__}({fields})"


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else repr(value)


def prepared(config: OperatorConfig, policy: Policy, setting: Setting) -> Prepared:
    """The teacher, the data, and the plan of replacing every second attention or MLP."""
    replace = replace_attention if isinstance(config, MixerConfig) else replace_mlp
    rule = replace(config, layers=every(setting.every), inherit=policy)
    return prepare(Recipe(model=setting.model, data=setting.data, rules=(rule,), seed=setting.seed))


def rewritten(run: Prepared) -> nn.Module:
    """The student before it is trained."""
    return commit(run.graph, run.plan.edits, run.recipe.seed, run.recordings)


def trained(run: Prepared, lr: float, setting: Setting) -> tuple[float, nn.Module]:
    """The student after stage 1 at this learning rate, and its held-out loss."""
    student = rewritten(run)
    config = Distil(steps=setting.steps, batch_size=setting.batch_size, lr=lr, checkpoint_every=setting.steps)
    teacher = run.teacher.model
    sites = sites_of(run.plan.edits, teacher, student)
    distil(teacher, student, sites, run.data, config, seed=setting.seed)
    return held_out_loss(run, student, setting), student


def held_out_loss(run: Prepared, student: nn.Module | None, setting: Setting) -> float:
    """The same loss of any student; without one, that of operators which return zeros."""
    teacher = run.teacher.model
    (batch,) = run.data.source(teacher, stage=STAGE, batch_size=setting.batch_size, seed=setting.seed).held_out()
    losses: list[float] = []

    def compare(site: Site) -> None:
        new, old = site.lesson.outcome()
        losses.append(LOSSES[site.loss](torch.zeros_like(old) if student is None else new, old).item())

    with ExitStack() as hooks, torch.no_grad():
        for site in sites_of(run.plan.edits, teacher, student or copy.deepcopy(teacher)):
            site.lesson.watch(hooks, partial(compare, site))
        predict(teacher, batch.inputs)
    return sum(losses)


def frechet(model: nn.Module, scheduler: Any, setting: Setting) -> float:
    """The distance of a model's samples to the data."""
    size = {"samples": setting.samples, "steps": setting.ddim_steps, "seed": setting.seed}
    return shipped_judge().judge(*evaluate_samples(model, scheduler, **size)).frechet


def outcome(run: Prepared, setting: Setting) -> dict[str, Any]:
    """What comes of one operator with one policy, at the better of the learning rates."""
    zeros = held_out_loss(run, None, setting)
    start = held_out_loss(run, rewritten(run), setting)
    runs = {lr: trained(run, lr, setting) for lr in setting.rates}
    lr = min(runs, key=lambda lr: runs[lr][0])
    return {
        "start": start / zeros,
        "losses": {str(lr): loss / zeros for lr, (loss, _) in runs.items()},
        "loss": runs[lr][0] / zeros,
        "lr": lr,
        "frechet": frechet(runs[lr][1], run.teacher.scheduler, setting),
    }


def exact(run: Prepared, projections: Prepared, measured: dict[str, Any]) -> dict[str, Any]:
    """Why "exact" is refused; if it is not, it gives the weights of "projections", so what was measured of these."""
    try:
        student = rewritten(run).state_dict()
    except RewriteError as error:
        return {"refused": str(error)}
    assert all(torch.equal(weight, student[name]) for name, weight in rewritten(projections).state_dict().items())
    return measured


def row(config: OperatorConfig, setting: Setting) -> dict[str, Any]:
    """All policies of one operator; `params` and `flops` are those of the new operators over those of the old."""
    start = time.perf_counter()
    runs = {policy: prepared(config, policy, setting) for policy in POLICIES}
    found = {policy: outcome(runs[policy], setting) for policy in ("random", "projections")}
    found["exact"] = exact(runs["exact"], runs["projections"], found["projections"])
    edits = runs["random"].plan.edits
    return {
        "operator": written(config),
        "replaces": "attention" if isinstance(config, MixerConfig) else "mlp",
        "params": sum(edit.params.after for edit in edits) / sum(edit.params.before for edit in edits),
        "flops": sum(edit.flops.after for edit in edits) / sum(edit.flops.before for edit in edits),
        "policies": found,
        "seconds": time.perf_counter() - start,
    }


def complete(figures: Figures, configs: dict[str, OperatorConfig], setting: Setting, keep: Keep) -> Figures:
    """Measure what is missing in `figures`, which `keep` is given after each row."""
    if "teacher" not in figures:
        teacher = load_pretrained(setting.model)
        figures["teacher"] = {"frechet": frechet(teacher.model, teacher.scheduler, setting)}
    rows = figures.setdefault("rows", {})
    for name, config in configs.items():
        if name not in rows or rows[name]["operator"] != written(config):
            rows[name] = row(config, setting)
            keep(figures)
            print(f"{name}: {rows[name]['seconds']:.0f} s", file=sys.stderr)
    figures["rows"] = {name: rows[name] for name in configs}
    return figures


def unmeasured(setting: Setting) -> Figures:
    """Where a call begins."""
    return {"setting": {**asdict(setting), "rates": list(setting.rates)}}


def begun(setting: Setting) -> Figures:
    """What an earlier call left in results/, if it was of this setting on this machine."""
    fresh, path = unmeasured(setting), RESULTS / "distil.json"
    if not path.exists():
        return fresh
    saved = json.loads(path.read_text())
    is_same = saved["machine"] == machine() and saved["figures"]["setting"] == fresh["setting"]
    return saved["figures"] if is_same else fresh


def main() -> None:
    setting, is_kept = Setting(), "--save" in sys.argv
    figures = begun(setting) if is_kept else unmeasured(setting)
    keep: Keep = partial(save, "distil") if is_kept else lambda _: None
    complete(figures, operators(), setting, keep)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    for kind in distil_page.KINDS:
        print(distil_page.table(figures, kind))
    if is_kept:
        print(save("distil", figures), *distil_page.write(RESULTS / "distil.json"))
    if "--json" in sys.argv:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
