"""The handwritten digits that `digits-dit` is trained on and judged by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CLASSES = 10


class Digits(NamedTuple):
    """Pictures of digits.

    Attributes:
        images: (N, 1, 8, 8) in [-1, 1], float32.
        labels: (N,), int64.
    """

    images: Tensor
    labels: Tensor

    def select(self, indices: Tensor) -> Digits:
        """Those at `indices` (B,), in that order."""
        return Digits(self.images[indices], self.labels[indices])


def load_digits() -> Digits:
    """The 1,797 handwritten 8x8 digits of the UCI test set, scaled from 0..16 to [-1, 1]."""
    from sklearn import datasets  # slow to import, and needed for these data only

    digits = datasets.load_digits()
    images_NHW = torch.from_numpy(digits.images).float() / 8 - 1
    return Digits(images_NHW.unsqueeze(1), torch.from_numpy(digits.target).long())
