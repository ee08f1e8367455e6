"""Losses before any training, by what a new operator inherits, on `digits-dit`.

Usage: python benchmarks/fitted.py [--json] [--save]

As in `distil.py` every second layer is replaced and losses are shares: 1 is the loss of operators that return zeros.
With --save the figures go to results/fitted.json and their table to docs/operators.md. The last line with --json is
{"OPERATOR": {"operator": "config", "random": l, "projections": l, "fitted": l}, ...}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import distil
from distil import Setting, held_out_loss, prepared, rewritten, written
from machine import machine, save

from surgery import operators as ops
from surgery.operators import OperatorConfig
from surgery.training.distil import sites_of
from surgery.training.fit import fit

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"
BEGIN, END = "<!-- fitted -->\n", "<!-- /fitted -->\n"
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


def row(config: OperatorConfig, setting: Setting) -> dict[str, Any]:
    """The losses of one operator."""
    run = prepared(config, "fitted", setting)
    zeros, student = held_out_loss(run, None, setting), rewritten(run)
    random = prepared(config, "random", setting)
    losses = {
        "random": held_out_loss(random, rewritten(random), setting) / zeros,
        "projections": held_out_loss(run, student, setting) / zeros,
    }
    teacher = run.teacher.model
    sites = sites_of(run.plan.edits, teacher, student)
    fit(teacher, student, sites, run.data, batch_size=setting.batch_size, seed=setting.seed)
    fitted = held_out_loss(run, student, setting) / zeros
    assert fitted <= losses["projections"]
    return {"operator": named(config), **losses, "fitted": fitted}


def named(config: OperatorConfig) -> str:
    """The config as a recipe has it, with the names of its parts."""
    if not isinstance(config, ops.Blend):
        return written(config)
    return f"Blend(parts=({', '.join(map(written, config.parts))}))"


def table(rows: Rows) -> str:
    """A line for each operator."""
    lines = ["| | operator | random | projections | fitted |", "|---|---|---|---|---|"]
    for name, each in rows.items():
        losses = " | ".join(f"{each[policy]:.3f}" for policy in ("random", "projections", "fitted"))
        lines.append(f"| {name} | `{each['operator']}` | {losses} |")
    return "\n".join(lines) + "\n"


def write(rows: Rows, page: Path = PAGE) -> Path:
    """Put the table between its marks in the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + table(rows) + END + after)
    return page


def main() -> None:
    setting, rows = Setting(), Rows()
    for name, config in operators().items():
        rows[name] = row(config, setting)
        print(name, file=sys.stderr)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(table(rows))
    if "--save" in sys.argv:
        print(save("fitted", rows), write(rows))
    if "--json" in sys.argv:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
