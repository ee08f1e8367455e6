"""Which dimension of each argument counts samples, and how samples are told apart and joined along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.tree import Arguments, below, same


@dataclass(frozen=True)
class Batching:
    """Along what samples are joined.

    Attributes:
        dims: by the path of a tensor, the dimension that counts samples; a tensor that is not named is shared.
        lists: paths of lists with an item, or several, for each sample.
        odd: why samples cannot be joined, one line for each argument; empty if they can.
    """

    dims: dict[str, int]
    lists: frozenset[str]
    odd: tuple[str, ...] = ()

    def split(self, arguments: Arguments, rows: int) -> list[Arguments]:
        """The arguments of each of `rows` equal parts of a batch."""
        return [self._part(arguments, "", rows, row) for row in range(rows)]

    def join(self, parts: Sequence[Arguments]) -> Arguments:
        """The arguments of one forward for all `parts`.

        Raises:
            WiringError: an argument differs between the parts and has no dimension along which to join it.
        """
        joined: Arguments = self._joined(list(parts), "")
        return joined

    def _part(self, value: Any, path: str, rows: int, row: int) -> Any:
        if isinstance(value, dict):
            return {key: self._part(item, below(path, key), rows, row) for key, item in value.items()}
        if path in self.lists:
            return value[row * len(value) // rows : (row + 1) * len(value) // rows]
        if isinstance(value, list | tuple):
            return type(value)(self._part(item, below(path, i), rows, row) for i, item in enumerate(value))
        if path not in self.dims or not isinstance(value, Tensor):
            return value
        size = value.shape[self.dims[path]]
        if size % rows:
            raise WiringError(f"argument {path}: {size} along dimension {self.dims[path]} are not {rows} equal parts")
        return value.narrow(self.dims[path], row * size // rows, size // rows)

    def _joined(self, values: list[Any], path: str) -> Any:
        first = values[0]
        if isinstance(first, dict):
            return {key: self._joined([v[key] for v in values], below(path, key)) for key in first}
        if path in self.lists:
            return type(first)(item for value in values for item in value)
        if isinstance(first, list | tuple):
            return type(first)(self._joined([v[i] for v in values], below(path, i)) for i in range(len(first)))
        if path in self.dims and isinstance(first, Tensor):
            return torch.cat(values, self.dims[path])
        if not all(same(first, value) for value in values[1:]):
            raise WiringError(f"argument {path} differs between samples, and has no dimension that counts samples")
        return first


def compare(one: Arguments, two: Arguments) -> Batching:
    """How the arguments for one sample grow with a second one."""
    dims: dict[str, int] = {}
    lists: set[str] = set()
    odd: list[str] = []

    def visit(a: Any, b: Any, path: str) -> None:
        if type(a) is not type(b) or (isinstance(a, dict) and a.keys() != b.keys()):
            odd.append(f"argument {path} changes its kind with a second sample")
        elif isinstance(a, dict):
            for key in a:
                visit(a[key], b[key], below(path, key))
        elif isinstance(a, list | tuple) and len(b) == 2 * len(a) > 0:
            lists.add(path)
        elif isinstance(a, list | tuple) and len(b) == len(a):
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                visit(x, y, below(path, i))
        elif isinstance(a, Tensor):
            _visit_tensor(a, b, path, dims, odd)
        elif a != b:
            odd.append(f"argument {path} is no tensor, and another one for two samples")

    visit(one, two, "")
    return Batching(dims, frozenset(lists), tuple(odd))


def _visit_tensor(a: Tensor, b: Tensor, path: str, dims: dict[str, int], odd: list[str]) -> None:
    if a.shape == b.shape:
        return
    doubled = [d for d in range(a.ndim) if a.ndim == b.ndim and b.shape[d] == 2 * a.shape[d]]
    if len(doubled) == 1:
        dims[path] = doubled[0]
    else:
        odd.append(f"argument {path} is {tuple(a.shape)} for one sample and {tuple(b.shape)} for two")
