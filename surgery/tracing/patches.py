"""What the modules that define a model see while it is recorded: `int` and `float` that follow sizes, and no caches.

Python demands that `int(x)` gives a true integer, which would lose track of a size. So the code of the model sees
stand-ins that give tracked numbers for tracked numbers and are the builtins for all else. A function under
`functools.lru_cache` is called anew: the cache would hand out what another recording, or a real call, left in it.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import Any
from unittest import mock

import torch
from torch import nn

from surgery.recording.one_thread import here, is_this_thread
from surgery.recording.surroundings import STANDS_FOR
from surgery.recording.weak_cache import weakly_cached
from surgery.tracing.sizes import Number, Ratio, Size, recorded_code


class _Meta(type):
    """Lets a stand-in pass for the builtin in `isinstance`, and be called like it."""

    kinds: tuple[type, ...]
    convert: Callable[..., Any]

    def __eq__(cls, other: object) -> bool:
        return other is cls or any(other is kind for kind in cls.kinds)

    def __hash__(cls) -> int:
        return hash(cls.kinds[0])

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.kinds)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.kinds)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.convert(*args, **kwargs)


def _number(builtin: type, *args: Any, **options: Any) -> Any:
    """What `int` or `float` gives, tracked if the argument is."""
    if len(args) != 1 or options or not is_this_thread():
        return builtin(*args, **options)
    value = args[0].item() if isinstance(args[0], torch.Tensor) else args[0]
    return value.tape.compute(builtin, value) if isinstance(value, Number) else builtin(value)


class TrackedInt(int, metaclass=_Meta):
    """Stands in for `int`."""

    kinds = (builtins.int, Size)
    convert = functools.partial(_number, builtins.int)


class TrackedFloat(float, metaclass=_Meta):
    """Stands in for `float`."""

    kinds = (builtins.float, Ratio)
    convert = functools.partial(_number, builtins.float)


STAND_INS = {"int": TrackedInt, "float": TrackedFloat}

# Each begins with a literal, which makes a search of whole files fast.
_ITSELF = [
    re.compile(start + r"(int|float)\b") for start in (r"is (?:not )?", "dtype=", r"\.to\(", r"\.type\(", r"\.astype\(")
]
"""Code that no stand-in can deceive, `type(x) is int`, and code that gives the builtin to PyTorch or NumPy as a dtype."""

_TYPES = re.compile(r"type\(.*\) is (?:not )?(?:int|float)\b")


@contextmanager
def patched_code(model: nn.Module) -> Iterator[None]:
    """Let every Python module that a class of `model` comes from see the stand-ins, and functions without caches."""
    names = {cls.__module__ for module in model.modules() for cls in type(module).__mro__}
    spaces = [sys.modules[n] for n in names if n in sys.modules and n.split(".")[0] not in ("torch", "builtins")]
    with ExitStack() as stack:
        untracked = [vars(space) for space in spaces if _asks_for_types(space)]
        stack.enter_context(recorded_code([vars(space) for space in spaces], untracked))
        for space in spaces:
            for name, stand_in in STAND_INS.items():
                if name not in vars(space) and name not in _asked_for(space):
                    stack.enter_context(mock.patch.object(space, name, stand_in, create=True))
            for owner, name, function in _cached(space):
                stack.enter_context(mock.patch.object(owner, name, function))
        yield


@weakly_cached
def _asked_for(space: ModuleType) -> set[str]:
    """The builtins that the code of a Python module needs as they are; `int(x)` there is a bare number, and guarded."""
    source = _source(space)
    return {name for pattern in _ITSELF for name in pattern.findall(source)}


@weakly_cached
def _asks_for_types(space: ModuleType) -> bool:
    """Whether code of a Python module asks what the type of a number is; sizes are bare there, and guarded."""
    return _TYPES.search(_source(space)) is not None


def _source(space: ModuleType) -> str:
    try:
        return inspect.getsource(space)
    except (OSError, TypeError):  # there is none
        return ""


def _cached(space: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    """Every cached function in a Python module and in the classes that it defines: owner, name, what replaces it."""
    classes = [c for c in vars(space).values() if isinstance(c, type) and c.__module__ == space.__name__]
    for owner in (space, *classes):
        for name, value in list(vars(owner).items()):
            if _has_cache(value):
                yield owner, name, _uncached(value)


def _uncached(cached: Any) -> Callable[..., Any]:
    """`cached` without its cache in the thread that records; for the others it is what it was."""
    plain = here(cached.__wrapped__, cached)
    setattr(plain, STANDS_FOR, cached)
    for name in ("cache_info", "cache_clear"):
        if hasattr(cached, name):
            setattr(plain, name, getattr(cached, name))
    return plain


def _has_cache(value: Any) -> bool:
    """Whether `value` is a function under `lru_cache`, or a wrapper around one."""
    if isinstance(value, functools._lru_cache_wrapper):
        return True
    if not isinstance(value, FunctionType) or not hasattr(value, "__wrapped__"):
        return False
    inside = [cell.cell_contents for cell in value.__closure__ or ()]
    return any(isinstance(v, functools._lru_cache_wrapper) for v in inside)
