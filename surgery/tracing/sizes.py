"""Sizes that remember where they came from.

While a model is recorded, `tensor.shape[i]` is a `Size`: it behaves as the integer it holds, and every computation on it
is written to the graph. A comparison, a loop bound or any other use that needs the bare number becomes a guard, so that
the graph is never used at a size that would have taken another branch. The tensors themselves have concrete sizes: a
batch of 1, or two sizes that happen to be equal, tie nothing together.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from surgery.tracing.leaves import map_leaves
from surgery.tracing.tape import Tape

_recorded: list[dict[str, Any]] = []
_untracked: list[dict[str, Any]] = []


@contextmanager
def recorded_code(spaces: list[dict[str, Any]], untracked: list[dict[str, Any]]) -> Iterator[None]:
    """While this context is open, code with the globals `spaces` is the model's own; some of it gets bare numbers."""
    _recorded.extend(spaces)
    _untracked.extend(untracked)
    try:
        yield
    finally:
        del _recorded[len(_recorded) - len(spaces) :], _untracked[len(_untracked) - len(untracked) :]


def takes_bare_sizes() -> bool:
    """Whether the model's code that runs asks a number for its type, which a tracked one cannot answer."""
    frame = sys._getframe(1) if _untracked else None
    while frame is not None and not is_recorded(frame.f_globals):
        frame = frame.f_back
    return frame is not None and any(known is frame.f_globals for known in _untracked)


def is_recorded(space: dict[str, Any]) -> bool:
    """Whether code with the globals `space` is the model's own."""
    return any(known is space for known in _recorded)


class Number:
    """What `Size` and `Ratio` share: a value, and the tape that it is written to."""

    def __init__(self, value: Any, tape: Tape) -> None:
        self.value = value
        self.tape = tape

    def bare(self) -> Any:
        """The number itself, which the recording from now on depends on."""
        return self.tape.pin(operator.pos, self)

    def __bool__(self) -> bool:
        return bool(self.tape.pin(operator.ne, self, 0))

    def __int__(self) -> int:
        return int(self.tape.pin(int, self))

    def __float__(self) -> float:
        return float(self.tape.pin(float, self))

    def __repr__(self) -> str:
        return repr(self.value)

    def __str__(self) -> str:
        return str(self.bare())

    def __format__(self, spec: str) -> str:
        return format(self.bare(), spec)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "__call__" and not options and all(isinstance(v, int | float | Number) for v in inputs):
            return self.tape.compute(ufunc, *inputs)
        bare = [v.bare() if isinstance(v, Number) else v for v in inputs]  # an array of NumPy follows no sizes
        return getattr(ufunc, method)(*bare, **options)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __hash__(self) -> int:
        if not is_recorded(sys._getframe(1).f_globals):
            raise TypeError(f"unhashable type: {type(self).__name__!r}")
        return hash(self.bare())

    def __round__(self, digits: int | None = None) -> Any:
        return self.tape.compute(round, self) if digits is None else self.tape.compute(round, self, digits)


class Size(Number, torch.SymInt):
    """A tracked integer. It is a `torch.SymInt`, so torch's argument parsers take it wherever they take an int.

    As the key of a dict in the model's code it is a bare number. Elsewhere it has no hash, as `SymInt` has none: a cache
    keyed by it (einops has one) would hand it on to another recording.
    """

    __hash__ = Number.__hash__

    def __index__(self) -> int:
        return int(self)


class Ratio(Number, torch.SymFloat):
    """A tracked float, such as the square root of a token count."""

    __hash__ = Number.__hash__


def _binary(function: Callable[[Any, Any], Any], reflected: bool) -> Callable[[Any, Any], Any]:
    """An arithmetic method of tracked numbers, or the reflected one."""

    def method(self: Number, other: Any) -> Any:
        if not isinstance(other, int | float | Number):
            return NotImplemented
        pair = (other, self) if reflected else (self, other)
        return self.tape.compute(function, *pair)

    return method


def _comparison(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A comparison: a bare truth value, which is guarded."""

    def method(self: Number, other: Any) -> Any:
        if not isinstance(other, int | float | Number):
            return NotImplemented
        return self.tape.pin(function, self, other)

    return method


def _unary(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: self.tape.compute(function, self)


def _install(cls: type[Number]) -> None:
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow"):
        function = getattr(operator, name)
        setattr(cls, f"__{name}__", _binary(function, reflected=False))
        setattr(cls, f"__r{name}__", _binary(function, reflected=True))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(cls, f"__{name}__", _comparison(getattr(operator, name)))
    for name in ("neg", "pos", "abs"):
        setattr(cls, f"__{name}__", _unary(getattr(operator, name)))
    for name in ("floor", "ceil", "trunc"):
        setattr(cls, f"__{name}__", _unary(getattr(math, name)))


_install(Size)
_install(Ratio)


def concrete(value: Any) -> Any:
    """`value` with every tracked number replaced by the number that it holds, through tuples, lists, dicts and slices."""
    return map_leaves(lambda leaf: leaf.value if isinstance(leaf, Number) else leaf, value)
