"""Grids of tokens: pictures and videos in raster order."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from surgery.config import Config
from surgery.errors import RewriteError

Grid = tuple[PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt]
"""Rows and columns, or frames, rows and columns."""


class Layout(Config):
    """Fields of operators whose filters may span more than the raster order.

    Attributes:
        axes: how many axes the filters span: 1 for the raster order, 2 for pictures, 3 for videos.
        grid: their sizes, whose product is the number of tokens; None with 2 axes means a square.
    """

    axes: Literal[1, 2, 3] = 1
    grid: Grid | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.grid is not None and len(self.grid) != self.axes:
            raise ValueError(f"grid {self.grid} has {len(self.grid)} axes, but axes is {self.axes}")
        if self.axes == 3 and self.grid is None:
            raise ValueError("axes=3 needs a grid, e.g. grid=(4, 16, 16)")
        return self


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
