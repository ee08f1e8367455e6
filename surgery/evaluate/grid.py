"""Pictures of samples, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

COLUMNS, MARGIN = 10, 4
LARGEST = (128, 128)
"""Width and height of one in a grid, in pixels."""


def grid_of(pictures: Sequence[Image.Image], *, columns: int = COLUMNS, margin: int = MARGIN) -> Image.Image:
    """One picture of `pictures`, which are of one size, row by row; margins, in pixels, are white."""
    small = [picture.copy() for picture in pictures]
    for picture in small:
        picture.thumbnail(LARGEST)
    width, height = small[0].size
    columns = min(columns, len(small))
    rows = -(-len(small) // columns)
    grid = Image.new("RGB", (columns * (width + margin) + margin, rows * (height + margin) + margin), "white")
    for i, picture in enumerate(small):
        grid.paste(picture, (margin + i % columns * (width + margin), margin + i // columns * (height + margin)))
    return grid


def grid_png(pictures: Sequence[Image.Image], *, columns: int = COLUMNS) -> bytes:
    """What `grid_of` draws, as the content of a PNG file."""
    buffer = io.BytesIO()
    grid_of(pictures, columns=columns).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
