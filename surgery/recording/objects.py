"""Python objects among the inputs and results of a forward: which are followed, attribute by attribute, or constants."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

from surgery.recording.torch_private import ScriptFunction

HEAP_TYPE = 1 << 9  # of a class that is written in Python


def is_object(value: Any) -> bool:
    """Whether all of `value` is in its `__dict__`, so that a graph can read and set its attributes: a cache is such."""
    others = (torch.Tensor, torch.SymInt, torch.SymFloat, BlockMask, ScriptFunction, nn.Module, Enum, type)
    if isinstance(value, others) or not type(value).__dictoffset__:
        return False
    return all(base is object or base.__flags__ & HEAP_TYPE for base in type(value).__mro__)


class Followed:
    """What all stand-ins for objects share while a forward is recorded.

    Attributes:
        _surgery: the graph that follows it, the object whose place it takes, and whether that is not to be changed.
    """


def origin_of(value: Any) -> Any:
    """The object that a stand-in stands for; all else as it is."""
    return object.__getattribute__(value, "_surgery")[1] if isinstance(value, Followed) else value


def made(cls: type[Any], attributes: dict[str, Any]) -> Any:
    """A new object of `cls` that holds `attributes`, as a forward made one, a dataclass for example."""
    new = object.__new__(cls)
    vars(new).update(attributes)
    return new


def _never(value: Any) -> bool:  # noqa: ARG001
    return False


def parts(value: Any, is_leaf: Callable[[Any], bool] = _never) -> Iterator[Any]:
    """`value`, and all that is in it if it is a container or an object, and in that, each once.

    Args:
        is_leaf: what is not looked into.
    """
    seen: set[int] = set()
    stack = [value]
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        inside = vars(origin_of(part)) if not is_leaf(part) and is_object(part) else part
        if isinstance(inside, dict | list | tuple | deque):
            stack += reversed(inside.values() if isinstance(inside, dict) else inside)
