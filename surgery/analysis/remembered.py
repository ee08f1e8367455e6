"""Answers that are found when they are first asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Owner = TypeVar("Owner")
Asked = TypeVar("Asked", bound=Hashable)
Answer = TypeVar("Answer")


def remembered(method: Callable[[Owner, Asked], Answer]) -> Callable[[Owner, Asked], Answer]:
    """A method of one argument whose results each instance keeps, as `functools.cached_property` does without one."""
    name = f"_remembered_{method.__name__}"

    @functools.wraps(method)
    def call(self: Owner, asked: Asked) -> Answer:
        known: dict[Any, Answer] = vars(self).setdefault(name, {})
        if asked not in known:
            known[asked] = method(self, asked)
        return known[asked]

    return call
