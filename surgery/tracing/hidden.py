"""Results that no graph takes apart: what they hold would be the stand-ins of the recording."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch

from surgery.errors import TraceError
from surgery.recording.describe import PLAIN
from surgery.recording.objects import is_object, origin_of
from surgery.tracing.stand_ins import is_tracked

DEEPEST = 4
"""So many objects inside each other are looked through."""


def refuse_hidden(result: Any) -> None:
    """Raise TraceError if a part of `result` can be read only once, or has tensors that a graph cannot give.

    Tensors, containers, and objects whose attributes are all in their `__dict__` are taken apart.
    """
    stack = [result]
    while stack:
        value = stack.pop()
        if is_tracked(value) or isinstance(value, PLAIN):
            continue
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list | tuple | deque):
            stack += value
        elif is_object(value):
            stack += vars(origin_of(value)).values()
        elif isinstance(value, Iterator):
            raise TraceError(f"the forward gives a {type(value).__name__}, which can be read once; let it give a list")
        elif _holds_tensors(value):
            raise TraceError(
                f"the forward gives a {type(value).__name__} with tensors in it, which no graph makes; let it give a "
                "tuple, a list, a dict, or an object without slots"
            )


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    """Whether tensors, or numbers that follow sizes, are found in `value` by whatever it refers to."""
    if is_tracked(value) or isinstance(value, torch.Tensor):
        return True
    if depth == DEEPEST or isinstance(value, type | FunctionType | ModuleType):
        return False
    return any(_holds_tensors(inner, depth + 1) for inner in gc.get_referents(value))
