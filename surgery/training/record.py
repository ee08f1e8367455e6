"""What training reports of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossRecord:
    """The loss of one step; `dataclasses.asdict` gives its JSON.

    Attributes:
        stage: "distil" or "finetune".
        step: counts from 1.
        loss: of the step's batch, before the update.
        sites: the terms that `loss` sums, by path of the site; empty where there is one term only.
        validation: the loss on the fixed held-out batch after the update, at steps that write a checkpoint.
    """

    stage: str
    step: int
    loss: float
    sites: dict[str, float] = field(default_factory=dict)
    validation: float | None = None


def to_table(records: Sequence[LossRecord]) -> Tensor:
    """A stage as float64 rows (S, 3 + sites): step, loss, validation or NaN, then the sites."""
    rows = [[r.step, r.loss, math.nan if r.validation is None else r.validation, *r.sites.values()] for r in records]
    return torch.tensor(rows, dtype=torch.float64)


def from_table(stage: str, sites: Sequence[str], table: Tensor) -> list[LossRecord]:
    """The records that `to_table` packed."""
    return [
        LossRecord(
            stage,
            int(step),
            loss,
            dict(zip(sites, terms, strict=True)),
            None if math.isnan(validation) else validation,
        )
        for step, loss, validation, *terms in table.tolist()
    ]
