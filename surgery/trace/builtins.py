"""`int` and `float` for the modules that define the model, while it is recorded.

Python demands that `int(x)` gives a true integer, which would lose track of a size. So the code of the model sees
stand-ins that give tracked numbers for tracked numbers and are the builtins for all else.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from surgery.trace.sizes import Number, Ratio, Size


class _Meta(type):
    kinds: tuple[type, ...]
    builtin: type

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.kinds)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.kinds)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], Number):
            return args[0].tape.compute(cls.builtin, args[0])
        return cls.builtin(*args, **kwargs)


class TrackedInt(int, metaclass=_Meta):
    """Stands in for `int`."""

    kinds = (builtins.int, Size)
    builtin = builtins.int


class TrackedFloat(float, metaclass=_Meta):
    """Stands in for `float`."""

    kinds = (builtins.float, Ratio)
    builtin = builtins.float


@contextmanager
def tracked_builtins(model: nn.Module) -> Iterator[None]:
    """Put the stand-ins into the globals of every Python module that a class of `model` comes from."""
    names = {cls.__module__ for module in model.modules() for cls in type(module).__mro__}
    spaces = [vars(sys.modules[n]) for n in names if n in sys.modules and n.split(".")[0] not in ("torch", "builtins")]
    stand_ins = {"int": TrackedInt, "float": TrackedFloat}
    placed = [(space, name) for space in spaces for name in stand_ins if name not in space]
    for space, name in placed:
        space[name] = stand_ins[name]
    try:
        yield
    finally:
        for space, name in placed:
            del space[name]
