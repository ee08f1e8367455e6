"""Sizes of equal area and different aspect, so that pictures lose little when they are cropped to one of them.

As in the training of Stable Diffusion XL (Podell et al. 2023, https://arxiv.org/abs/2307.01952, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Size = tuple[int, int]
"""Height and width, in pixels."""

LARGEST_ASPECT = 2.0
"""How much longer one side may be than the other."""


def bucket_sizes(side: int, step: int) -> tuple[Size, ...]:
    """The sizes with the area of a square of `side`, or nearly, whose sides are multiples of `step`; wide ones first."""
    found: set[Size] = set()
    for long in range(side, 2 * side + 1, step):
        short = round(side * side / long / step) * step
        if short and long / short <= LARGEST_ASPECT:
            found |= {(long, short), (short, long)}
    return tuple(sorted(found, key=_slope))


def nearest(sizes: Sequence[Size], size: Size) -> Size:
    """The one of `sizes` whose aspect is nearest to that of `size`; the first of several."""
    return min(sizes, key=lambda each: abs(_slope(each) - _slope(size)))


def _slope(size: Size) -> float:
    height, width = size
    return math.log(height / width)
