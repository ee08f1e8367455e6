"""The handwritten digits that `digits-dit` is trained on and judged by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CLASSES = 10


class Labelled(NamedTuple):
    """Pictures of ten classes: of digits (S = 8 pixels a side), or of clothes (S = 28).

    Attributes:
        images: (N, 1, S, S) in [-1, 1], float32.
        labels: (N,), int64.
    """

    images: Tensor
    labels: Tensor

    def select(self, indices: Tensor) -> Labelled:
        """Those at `indices` (B,), in that order."""
        return Labelled(self.images[indices], self.labels[indices])


def load_digits() -> Labelled:
    """The 1,797 handwritten 8x8 digits of the UCI test set, scaled from 0..16 to [-1, 1]."""
    from sklearn import datasets  # slow to import, and needed for these data only

    digits = datasets.load_digits()
    images_NHW = torch.from_numpy(digits.images).float() / 8 - 1
    return Labelled(images_NHW.unsqueeze(1), torch.from_numpy(digits.target).long())
