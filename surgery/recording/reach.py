"""What can be reached from somewhere, step by step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

Place = TypeVar("Place", bound=Hashable)


def reach(starts: Iterable[Place], step: Callable[[Place], Iterable[Place]]) -> Iterator[Place]:
    """`starts`, and all that repeated steps lead to, once each."""
    stack = list(starts)
    seen = set(stack)
    while stack:
        place = stack.pop()
        yield place
        for other in step(place):
            if other not in seen:
                seen.add(other)
                stack.append(other)
