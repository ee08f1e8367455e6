"""Writes docs/classes.md: how every transformer class of diffusers is traced. Usage: python -m tests.classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch

import surgery
from surgery.errors import GuardError, SurgeryError
from surgery.graph import ModelGraph
from tests.classes import Case, all_cases
from tests.classes.check import forward, randomised, same_bits

PAGE = Path(__file__).parents[2] / "docs" / "classes.md"
HEAD = """# Transformer classes of diffusers

Every class that `diffusers.models.transformers` exports, traced at tiny size at the first of several sizes (batch,
resolution, frames, text length) and compared with the original, bit for bit, at all of them on new random inputs with
random weights. A size is *refused* if the traced model raises GuardError where the original runs. Guards are the
conditions on sizes and values that the recordings rest on. Written by `make classes` with torch {torch} and diffusers
{diffusers}; `tests/classes` holds the configurations, and tests the gradients in train mode and bfloat16 too.

**{exact} of {total} configurations are exact, {classes} of {all_classes} classes; {different} give different bits.**

| class | exact sizes | refused | guards | operators |
|---|---|---|---|---|
"""


@dataclass
class Row:
    """What came of one case; `failure` says why it could not be traced."""

    case: Case
    exact: int = 0
    refused: int = 0
    guards: int = 0
    operators: str = ""
    failure: str = ""

    @property
    def is_exact(self) -> bool:
        return self.exact == len(self.case.sizes)

    def __str__(self) -> str:
        if self.failure:
            return f"| {self.case.name} | cannot be traced: {self.failure} | | | |"
        sizes = f"{self.exact} of {len(self.case.sizes)}"
        return f"| {self.case.name} | {sizes} | {self.refused or ''} | {self.guards or ''} | {self.operators} |"


def row_of(case: Case) -> Row:
    """Trace a case and compare it at all its sizes."""
    model, row = randomised(case.model()), Row(case)
    try:
        graph = surgery.trace(model, case.example())
    except SurgeryError as error:
        row.failure = str(error).split(": ", 1)[-1]
        return row
    row.operators = _operators(graph)
    traced = graph.module()
    for seed, sizes in enumerate(case.sizes, 1):
        expected = forward(model, case, sizes, seed)
        try:
            row.exact += same_bits(expected, forward(traced, case, sizes, seed))
        except GuardError:
            row.refused += 1
    row.guards = len(set(graph.guards))
    return row


def _operators(graph: ModelGraph) -> str:
    counts = Counter(operator.role for operator in graph.operators())
    return ", ".join(f"{count} {role.replace('_', '-')}" for role, count in counts.items())


def page(rows: list[Row]) -> str:
    """The whole page."""
    failed = {row.case.class_name for row in rows if not row.is_exact}
    names = {row.case.class_name for row in rows}
    different = sum(not row.failure and row.exact + row.refused < len(row.case.sizes) for row in rows)
    head = HEAD.format(
        torch=torch.__version__.split("+")[0],
        diffusers=diffusers.__version__,
        exact=sum(row.is_exact for row in rows),
        total=len(rows),
        classes=len(names - failed),
        all_classes=len(names),
        different=different,
    )
    return head + "".join(f"{row}\n" for row in rows)


if __name__ == "__main__":
    PAGE.write_text(page([row_of(case) for case in all_cases()]))
    print(PAGE)
