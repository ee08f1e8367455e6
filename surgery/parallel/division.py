"""A batch that the processes divide among them. What each does counts by its samples, so sums are those of one alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from surgery.parallel.group import add_up, from_all, rank, size
from surgery.parallel.whole import is_divided

Part = TypeVar("Part", bound=Any)
"""A dataclass with a `share`."""


@dataclass(frozen=True)
class Division:
    """The part of a batch that falls to this process.

    Attributes:
        rows: of the batch; where there are fewer than processes, one that another process has too.
        weight: 1, or 0 for such a row: it is run because others wait for that, and counts for nothing.
    """

    rows: list[int]
    weight: float


def divided(count: int) -> Division:
    """The part of `count` samples, at least one, that falls to this process."""
    rows = list(range(rank(), count, size()))
    return Division(rows, 1.0) if rows else Division([0], 0.0)


def evened(parts: Sequence[Part]) -> list[Part]:
    """The forwards of this process, as many as that one has which has most: the last is repeated and counts for nothing.

    Sharded weights are gathered for each forward, by all processes at once.
    """
    if size() == 1 or not parts:
        return [*parts]
    most = max(from_all(len(parts)))
    return [*parts, *(replace(parts[-1], share=0.0) for _ in range(most - len(parts)))]


def sum_over_all(number: float) -> float:
    """The sum of a number over all processes."""
    return sum(from_all(number))


@torch.no_grad()
def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; one that only some of them have is 0 in the others.

    That of a divided parameter is a sum already.
    """
    parameters = [parameter for parameter in parameters if not is_divided(parameter)]
    if size() == 1 or not parameters:
        return
    given = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
    add_up([given])
    gradients: list[Tensor] = []
    for parameter, some in zip(parameters, given.tolist(), strict=True):
        if some and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    add_up(gradients)
