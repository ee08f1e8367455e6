"""Grids of tokens: pictures and videos in raster order."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from surgery.errors import RewriteError

Grid = tuple[PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt]
"""Rows and columns, or frames, rows and columns."""


Axes = Literal[1, 2, 3]
"""How many axes a filter spans: 1 for the raster order, 2 for pictures, 3 for videos."""


Text = Literal["first", "last"]
"""Where tokens stand that lie on no grid: those of a prompt, in joint attention."""


def rank_of(axes: Axes | None, grid: Grid | None) -> int:
    """`axes`, or else those of the grid, or else 1; ValueError if the two differ, or 3 axes have no grid."""
    if grid is None and axes == 3:
        raise ValueError("axes=3 needs a grid, e.g. grid=(4, 16, 16)")
    if grid is not None and axes not in (None, len(grid)):
        raise ValueError(f"grid {grid} has {len(grid)} axes, but axes is {axes}")
    return axes or (len(grid) if grid else 1)


def require_grid(grid: Grid | None, text: Text | None) -> None:
    """ValueError if there are other tokens besides those of a grid that is not known."""
    if text is not None and grid is None:
        raise ValueError(f"text={text!r} needs a grid, e.g. grid=(16, 16): all other tokens are text")


def on_grid(tokens: int, grid: tuple[int, ...] | None, text: Text | None) -> int:
    """How many of the tokens lie on the grid.

    Raises:
        RewriteError: there are fewer tokens than that.
    """
    if text is None or grid is None:
        return tokens
    count = math.prod(grid)
    if count > tokens:
        raise RewriteError(
            f"{tokens} tokens do not fill a {' x '.join(map(str, grid))} grid; give the operator the grid of the image"
        )
    return count


def apart(x_BNC: Tensor, grid: tuple[int, ...] | None, text: Text | None) -> tuple[Tensor, Tensor]:
    """The tokens on the grid, and the others."""
    count = on_grid(x_BNC.shape[1], grid, text)
    others = x_BNC.shape[1] - count
    first, last = torch.split(x_BNC, [others, count] if text == "first" else [count, others], dim=1)
    return (last, first) if text == "first" else (first, last)


def together(image_BNC: Tensor, text_BNC: Tensor, text: Text | None) -> Tensor:
    """The inverse of `apart`."""
    if not text_BNC.shape[1]:
        return image_BNC
    return torch.cat([text_BNC, image_BNC] if text == "first" else [image_BNC, text_BNC], dim=1)


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
