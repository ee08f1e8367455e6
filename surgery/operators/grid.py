"""Grids of tokens: pictures and videos in raster order."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import PositiveInt

from surgery.errors import RewriteError

Grid = tuple[PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt]
"""Rows and columns, or frames, rows and columns."""


Axes = Literal[1, 2, 3]
"""How many axes a filter spans: 1 for the raster order, 2 for pictures, 3 for videos."""


def rank_of(axes: Axes | None, grid: Grid | None) -> int:
    """`axes`, or else those of the grid, or else 1; ValueError if the two differ, or 3 axes have no grid."""
    if grid is None and axes == 3:
        raise ValueError("axes=3 needs a grid, e.g. grid=(4, 16, 16)")
    if grid is not None and axes not in (None, len(grid)):
        raise ValueError(f"grid {grid} has {len(grid)} axes, but axes is {axes}")
    return axes or (len(grid) if grid else 1)


def sizes(grid: tuple[int, ...] | None, tokens: int, axes: int) -> tuple[int, ...]:
    """The sizes of the grid that `tokens` lie on; None means a square.

    Raises:
        RewriteError: they do not lie on it.
    """
    if axes == 1:
        return (tokens,)
    side = round(tokens**0.5)
    found = grid or (side, side)
    if len(found) != axes or math.prod(found) != tokens:
        shape = " x ".join(map(str, grid)) if grid else "square"
        raise RewriteError(f"{tokens} tokens do not lie on a {shape} grid of {axes} axes; give the operator their grid")
    return found
