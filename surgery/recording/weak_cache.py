"""Answers about a function or a module of Python that are kept as long as it is there: `functools.cache` keeps it too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def weakly_cached(make: Callable[[Asked], Answer]) -> Callable[[Asked], Answer]:
    """`make`, called once for each argument."""
    known: WeakKeyDictionary[Asked, Answer] = WeakKeyDictionary()

    @functools.wraps(make)
    def get(asked: Asked) -> Answer:
        if asked not in known:
            known[asked] = make(asked)
        return known[asked]

    return get
