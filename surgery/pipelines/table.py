"""What depends on the position in the schedule, kept as it was seen: formulas would round differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """One argument at every position.

    Attributes:
        values: (positions, columns): elements that are equal throughout are kept once.
        column: int32, for each element of the argument the column that holds it; None if the argument is no tensor.
        shape: of the argument.
    """

    values: Tensor
    column: Tensor | None
    shape: tuple[int, ...]

    def at(self, position: int) -> Any:
        """The argument at `position`."""
        row = self.values[position]
        return row.item() if self.column is None else row.index_select(0, self.column).reshape(self.shape)

    def to(self, device: torch.device | str) -> Table:
        """The same table on another device; numbers that are no tensors stay where they are."""
        if self.column is None:
            return self
        return Table(self.values.to(device), self.column.to(device), self.shape)


def table_of(values: Sequence[Any]) -> Table:
    """The table of one argument's values: tensors of one shape and dtype, or numbers."""
    first = values[0]
    if not isinstance(first, Tensor):
        dtype = {bool: torch.bool, int: torch.int64, float: torch.float64}[type(first)]
        return Table(torch.tensor(values, dtype=dtype), None, ())
    column = _columns([value.reshape(-1) for value in values])
    kept = torch.zeros(int(column.max()) + 1, dtype=torch.int64).scatter_(0, column, torch.arange(column.numel()))
    rows = torch.stack([value.reshape(-1).cpu().index_select(0, kept) for value in values])
    return Table(rows.to(first.device), column.int().to(first.device), tuple(first.shape))


def _columns(values: Sequence[Tensor]) -> Tensor:
    """For each element a number; elements that are equal in all of `values` have the same."""
    column = torch.zeros(values[0].numel(), dtype=torch.int64)
    for value in values:
        _, part = torch.unique(value.cpu().double().nan_to_num(), return_inverse=True)
        _, column = torch.unique(column * (int(part.max()) + 1) + part, return_inverse=True)
    return column
