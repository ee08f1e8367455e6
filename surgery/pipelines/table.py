"""What depends on the position in the schedule, kept as it was seen: formulas would round differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.errors import WiringError

LARGEST = 2**28
"""Elements of an argument at all positions, of which more are not kept."""


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


class History:
    """One argument at every position while it is being seen.

    All is kept in one piece of memory: small pieces, made between large ones that come and go, would hold theirs back.

    Raises:
        WiringError: the argument is neither a tensor nor a number, or too large to keep at all positions.
    """

    def __init__(self, path: str, first: Any, positions: int) -> None:
        self._path, self._first = path, first
        flat = first.reshape(-1) if isinstance(first, Tensor) else torch.tensor([first], dtype=self._dtype())
        if flat.numel() * positions > LARGEST:
            raise WiringError(f"argument {path} changes with the time and is too large to keep: {flat.numel():,}")
        self._rows = flat.repeat(positions, 1)

    def _dtype(self) -> torch.dtype:
        known = {bool: torch.bool, int: torch.int64, float: torch.float64}
        if type(self._first) not in known:
            raise WiringError(f"argument {self._path} changes from step to step and is no tensor: {self._first!r}")
        return known[type(self._first)]

    def note(self, position: int, value: Any) -> None:
        """Keep `value` at `position`.

        Raises:
            WiringError: it is of another kind, shape or dtype.
        """
        if type(value) is not type(self._first) or (isinstance(value, Tensor) and not _alike(value, self._first)):
            raise WiringError(f"argument {self._path} changes its kind, shape or dtype from step to step")
        self._rows[position] = value.reshape(-1) if isinstance(value, Tensor) else value

    def table(self) -> Table:
        """All that was noted, elements that are equal throughout once."""
        if not isinstance(self._first, Tensor):
            return Table(self._rows, None, ())
        kept, column = torch.unique(self._rows.double(), dim=1, return_inverse=True)
        return Table(kept.to(self._rows.dtype), column.int(), tuple(self._first.shape))


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype
