"""The digits are what they are said to be."""

from __future__ import annotations

import torch

from surgery.digits.data import load_digits


def test_digits_span_the_range_and_all_classes():
    images, labels = load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert images.aminmax() == (-1, 1)
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
