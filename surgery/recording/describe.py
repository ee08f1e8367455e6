"""Values as data that can be compared and stays the same in a copy and on another device.

Guards, signatures, the state of a recording and fingerprints of calls all ask what a value is. They differ in what
counts: whether a number is told or only that it is one, the strides of a tensor or its rank alone. So each of them is a
`Describer` that says these few things; how values are taken apart is told here, once.
"""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

Description = Any

DEEPEST = 4
"""So many containers and objects inside each other are looked into; models do not hide tensors or settings deeper."""

NUMBERS = (int, float, torch.SymInt, torch.SymFloat)
PLAIN = (bool, int, float, str, bytes, complex, type(None), type, torch.dtype, torch.device, FunctionType,
         BuiltinFunctionType, type(Ellipsis))  # fmt: skip
"""What is described by its value."""


class Object(NamedTuple):
    """Describes an object.

    Attributes:
        cls: its class.
        attributes: a dict of them, described.
    """

    cls: type
    attributes: Description


class Describer:
    """Describes values; subclasses say what counts.

    Attributes:
        deepest: how many containers and objects inside each other it looks into.
    """

    deepest: float = DEEPEST

    def describe(self, value: Any, depth: int = 0) -> Description:
        """`value`, which stands in `depth` containers, by what it is."""
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, BlockMask):
            return self.block_mask(value)
        if isinstance(value, NUMBERS) and not isinstance(value, bool):
            return self.number(value)
        if isinstance(value, PLAIN):
            return self.constant(value)
        if isinstance(value, set | frozenset):
            return (self.kind(type(value)), frozenset((type(item), item) for item in value))
        if depth < self.deepest and isinstance(value, list | tuple | deque):
            return (self.kind(type(value)), *(self.describe(item, depth + 1) for item in value))
        if depth < self.deepest and isinstance(value, dict):
            return (self.kind(type(value)), *((key, self.describe(item, depth + 1)) for key, item in value.items()))
        return self.other(value, depth)

    def kind(self, cls: type) -> Description:
        """The class of a container."""
        return cls

    def tensor(self, tensor: torch.Tensor) -> Description:
        """A tensor."""
        return ("tensor", tuple(tensor.shape), tensor.dtype)

    def block_mask(self, mask: BlockMask) -> Description:
        """A mask of FlexAttention, by its sizes: what it lets through is in its tensors."""
        return ("block mask", mask.seq_lengths, mask.BLOCK_SIZE)

    def number(self, number: Any) -> Description:
        """A number, which no truth value is."""
        return self.constant(number) if isinstance(number, int | float) else (type(number),)

    def constant(self, value: Any) -> Description:
        """One of `PLAIN`; `True` is not 1, nor is 1.0."""
        return (type(value), value)

    def other(self, value: Any, depth: int) -> Description:
        """All else, and containers that are too deep."""
        if isinstance(value, np.ndarray):
            return (np.ndarray, value.shape, str(value.dtype), hashlib.sha256(value.tobytes()).digest())
        return self.attributes(value, depth) if depth < self.deepest and has_attributes(value) else (type(value),)

    def attributes(self, value: Any, depth: int) -> Description:
        """An object by its class and attributes."""
        return Object(type(value), self.describe(attributes_of(value), depth + 1))


def has_attributes(value: Any) -> bool:
    """Whether `attributes_of` finds what `value` consists of."""
    return hasattr(value, "__dict__") or next(_slots(type(value)), None) is not None


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object consists of: its `__dict__`, and what is in its slots."""
    slots = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
    return slots | getattr(value, "__dict__", {})


def _slots(cls: type) -> Iterator[str]:
    """The slots of a class; those of Python's own are no state of a model."""
    if cls.__module__.partition(".")[0] not in sys.stdlib_module_names:
        for base in cls.__mro__:
            names = vars(base).get("__slots__", ())
            yield from (n for n in ([names] if isinstance(names, str) else names) if not n.startswith("__"))
