"""Values as data that can be compared and stays the same in a copy and on another device.

Guards, signatures, the state of a recording and fingerprints of calls all ask what a value is. They differ in what
counts: whether a number is told or only that it is one, the strides of a tensor or its rank alone. So each of them is a
`Describer` that says these few things; how values are taken apart is told here, once.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

Description = Any

DEEPEST = 4
"""So many containers and objects inside each other are looked into; models do not hide tensors or settings deeper."""

NUMBERS = (int, float, torch.SymInt, torch.SymFloat)
PLAIN = (bool, int, float, str, bytes, complex, type(None), type, torch.dtype, torch.device, FunctionType,
         BuiltinFunctionType, type(Ellipsis))  # fmt: skip
"""What is described by its value."""


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
        if depth < self.deepest and isinstance(value, list | tuple):
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
        return self.attributes(value, depth) if depth < self.deepest and hasattr(value, "__dict__") else (type(value),)

    def attributes(self, value: Any, depth: int) -> Description:
        """An object by its class and attributes."""
        return (type(value), self.describe(vars(value), depth + 1))
