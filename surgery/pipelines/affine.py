"""Maps whose every element is a constant, or one element of a source times a factor; learned from their values.

The source is set to 0, to 1, and to each digit of its elements' numbers in base 128. What an element of the result makes
of these tells its factor and the number of the element that it comes from. Digits are exact in bfloat16 and float16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 128


@dataclass(frozen=True)
class Affine:
    """result[i] = scale[i] * source[index[i]], or a constant where index[i] is -1.

    Attributes:
        index: int32, one for each element of the result.
        scale: of each element, or a single one where all are equal (0-d); float64.
        shape: of the result.
        dtype: of the result.
    """

    index: Tensor
    scale: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def fixed(self) -> Tensor:
        """Which elements of the result are constants, as a flat mask."""
        return self.index < 0

    def __call__(self, source: Tensor, constants: Tensor | None = None) -> Tensor:
        """The result for the elements of `source`.

        Args:
            source: (elements,), or (B, elements) for B results.
            constants: the result's elements that do not come from the source, in order; 0 without.
        """
        got = source.index_select(-1, self.index.clamp(min=0))
        if self.scale.ndim or self.scale != 1:
            got = got.to(torch.promote_types(got.dtype, torch.float64)) * self.scale
        got = got.to(self.dtype)
        if bool(self.fixed.any()):
            filled = got.new_zeros(self.index.numel())
            if constants is not None:
                filled[self.fixed] = constants
            got = torch.where(self.fixed, filled, got)
        return got.reshape(*source.shape[:-1], *self.shape)

    def to(self, device: torch.device | str) -> Affine:
        """The same map on another device."""
        return Affine(self.index.to(device), self.scale.to(device), self.shape, self.dtype)


def digits_of(elements: int) -> list[Tensor]:
    """The digits of the numbers 0, 1, ..., elements - 1 in base 128, the lowest first, each as (elements,) floats."""
    numbers = torch.arange(elements)
    found: list[Tensor] = []
    while not found or bool(numbers.any()):
        found.append((numbers % BASE).float())
        numbers = numbers // BASE
    return found


def learn(zero: Tensor, one: Tensor, digits: Sequence[Tensor], elements: int) -> tuple[Affine, Tensor]:
    """The affine map that gives `zero` and `one` where all of the source is 0 and 1, and `digits` for its digits.

    Whether it is one at all is not known before it is tried on something else.

    Returns:
        The map, and what it gives for a source of zeros, flat, float64.
    """
    start = zero.reshape(-1).double()
    scale = one.reshape(-1).double() - start
    index = torch.zeros_like(start, dtype=torch.int64)
    for power, digit in enumerate(digits):
        index += ((digit.reshape(-1).double() - start) / scale).nan_to_num(0, 0, 0).round().long() * BASE**power
    index = index.clamp(0, elements - 1).where(scale != 0, -1)
    return Affine(index.int(), _narrowed(scale, index >= 0), tuple(zero.shape), zero.dtype), start


def _narrowed(scale: Tensor, used: Tensor) -> Tensor:
    values = scale[used]
    equal = values.numel() == 0 or bool((values == values[0]).all())
    return scale.new_tensor(1.0) if values.numel() == 0 else values[0].clone() if equal else scale
