"""Losses and distances before any training, by what a new operator inherits, on `digits-dit`.

Usage: python benchmarks/fitted.py [--json] [--save]

As in `distil.py` every second layer is replaced and losses are shares: 1 is the loss of operators that return zeros.
Distances are Frechet distances of 500 samples at 5 DDIM steps, over that of the teacher's samples from the same noise.
With --save the figures go to results/fitted.json and their table to docs/operators.md. The last line with --json is
{"OPERATOR": {"operator": "config", "random": [loss, distance], "projections": [...], "fitted": [...]}, ...}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import distil
from distil import Setting, held_out_loss, prepared, rewritten, written
from machine import machine, save
from torch import nn

from surgery import operators as ops
from surgery.digits.judge import evaluate_samples, shipped_judge
from surgery.models import load_pretrained
from surgery.operators import OperatorConfig
from surgery.training.distil import sites_of
from surgery.training.fit import fit

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"
BEGIN, END = "<!-- fitted -->\n", "<!-- /fitted -->\n"
POLICIES = ("random", "projections", "fitted")
SAMPLES, STEPS = 500, 5
HYBRID = (ops.NeighbourhoodAttention(window=5), ops.LinearAttention(centre=True))

Rows = dict[str, dict[str, Any]]


def operators() -> dict[str, OperatorConfig]:
    """Those that are distilled, and those that came later."""
    return {
        **distil.operators(),
        "gated delta": ops.GatedDelta(),
        "TTT": ops.TTT(),
        "sparse and linear": ops.SparseLinear(block=8, top=2),
        "blend": ops.Blend(parts=HYBRID),
    }


def row(config: OperatorConfig, setting: Setting, teachers: float) -> dict[str, Any]:
    """The losses and distances of one operator; `teachers` is the distance of the teacher."""
    run = prepared(config, "fitted", setting)
    zeros = held_out_loss(run, None, setting)

    def figures(student: nn.Module) -> tuple[float, float]:
        return held_out_loss(run, student, setting) / zeros, frechet(student) / teachers

    student = rewritten(run)
    found = {"random": figures(rewritten(prepared(config, "random", setting))), "projections": figures(student)}
    teacher = run.teacher.model
    sites = sites_of(run.plan.edits, teacher, student)
    fit(teacher, student, sites, run.data, batch_size=setting.batch_size, seed=setting.seed)
    found["fitted"] = figures(student)
    assert found["fitted"][0] <= found["projections"][0]
    return {"operator": named(config), **found}


def frechet(model: nn.Module) -> float:
    """The Frechet distance of the samples of a model of the digits."""
    images, _ = evaluate_samples(model, load_pretrained("digits-dit").scheduler, samples=SAMPLES, steps=STEPS)
    return shipped_judge().frechet(images)


def named(config: OperatorConfig) -> str:
    """The config as a recipe has it, with the names of its parts."""
    if not isinstance(config, ops.Blend):
        return written(config)
    return f"Blend(parts=({', '.join(map(written, config.parts))}))"


def table(rows: Rows) -> str:
    """A line for each operator."""
    heads = [f"{policy}: {what}" for what in ("loss", "distance") for policy in POLICIES]
    lines = [f"| | operator | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for name, each in rows.items():
        losses = [f"{each[policy][0]:.3f}" for policy in POLICIES]
        distances = [f"{each[policy][1]:.2f} x" for policy in POLICIES]
        lines.append(f"| {name} | `{each['operator']}` | {' | '.join([*losses, *distances])} |")
    return "\n".join(lines) + "\n"


def write(rows: Rows, page: Path = PAGE) -> Path:
    """Put the table between its marks in the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + table(rows) + END + after)
    return page


def main() -> None:
    setting, rows = Setting(), Rows()
    teachers = frechet(load_pretrained("digits-dit").model)
    for name, config in operators().items():
        rows[name] = row(config, setting, teachers)
        print(name, file=sys.stderr)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(table(rows))
    if "--save" in sys.argv:
        print(save("fitted", rows), write(rows))
    if "--json" in sys.argv:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
