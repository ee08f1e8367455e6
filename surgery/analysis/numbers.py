"""Whole numbers that stand in the arguments of nodes, and nodes with others in their places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

At = tuple[int | str, ...]
"""Where a number stands: the position or the keyword of an argument, then items of sequences, or a bound of a slice."""

_BOUNDS = ("start", "stop", "step")


@dataclass(frozen=True)
class Number:
    """A whole number that takes the place of another.

    Attributes:
        node: in whose arguments it stands.
        at: where.
        value: the new one.
    """

    node: fx.Node
    at: At
    value: int


def numbers_in(node: fx.Node) -> Iterator[tuple[At, int]]:
    """Every whole number among the arguments of `node`, and where it stands."""
    for position, value in enumerate(node.args):
        yield from _in((position,), value)
    for keyword, value in node.kwargs.items():
        yield from _in((keyword,), value)


def _in(at: At, value: Any) -> Iterator[tuple[At, int]]:
    if type(value) is int:
        yield at, value
    elif isinstance(value, slice):
        for bound in _BOUNDS:
            yield from _in((*at, bound), getattr(value, bound))
    elif isinstance(value, tuple | list):
        for item, each in enumerate(value):
            yield from _in((*at, item), each)


def with_numbers(node: fx.Node, numbers: Iterable[tuple[At, int]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of `node` with other numbers in them."""
    args, kwargs = list(node.args), dict(node.kwargs)
    for (first, *rest), number in numbers:
        if isinstance(first, int):
            args[first] = _put(args[first], rest, number)
        else:
            kwargs[first] = _put(kwargs[first], rest, number)
    return tuple(args), kwargs


def _put(value: Any, at: list[int | str], number: int) -> Any:
    """`value` with `number` in it."""
    if not at:
        return number
    first, *rest = at
    if isinstance(value, slice):
        bounds = {bound: getattr(value, bound) for bound in _BOUNDS}
        return slice(*{**bounds, str(first): number}.values())
    items = list(value)
    items[int(first)] = _put(items[int(first)], rest, number)
    return type(value)(items)
