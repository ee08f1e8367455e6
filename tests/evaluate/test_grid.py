"""Pictures side by side are crisp."""

from __future__ import annotations

import io

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from surgery.digits.pipeline import SCALE, pictures_of
from surgery.evaluate.grid import LARGEST, grid_of, grid_png


@given(count=st.integers(1, 7), channels=st.sampled_from([1, 3]), columns=st.integers(1, 4), margin=st.integers(0, 3))
def test_every_pixel_of_a_grid_is_a_block_and_margins_are_white(count, channels, columns, margin):
    samples = torch.rand(count, channels, 3, 2) * 2 - 1
    grid = np.asarray(grid_of(pictures_of(samples), columns=columns, margin=margin))
    columns = min(columns, count)
    rows = -(-count // columns)
    assert grid.shape == (rows * (3 * SCALE + margin) + margin, columns * (2 * SCALE + margin) + margin, 3)
    rest = np.ones(grid.shape[:2], dtype=bool)
    for i, image in enumerate(samples):
        top, left = (margin + k * (n * SCALE + margin) for k, n in ((i // columns, 3), (i % columns, 2)))
        tile = grid[top : top + 3 * SCALE, left : left + 2 * SCALE]
        expected = ((image.expand(3, -1, -1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert (tile == expected.repeat(SCALE, axis=0).repeat(SCALE, axis=1)).all()
        rest[top : top + 3 * SCALE, left : left + 2 * SCALE] = False
    assert (grid[rest] == 255).all()


def test_large_pictures_are_small_in_a_grid_and_stay_as_they_are():
    picture = Image.new("RGB", (600, 300))
    assert grid_of([picture], margin=0).size == (LARGEST[0], LARGEST[1] // 2)
    assert picture.size == (600, 300)


def test_a_grid_is_stored_as_png_without_loss():
    samples = torch.rand(4, 1, 8, 8) * 4 - 2
    with Image.open(io.BytesIO(grid_png(pictures_of(samples)))) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), np.asarray(grid_of(pictures_of(samples))))
