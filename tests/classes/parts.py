"""Pieces that the inputs of several classes share."""

from __future__ import annotations

import torch


def prefix_mask(batch: int, length: int) -> torch.Tensor:
    """Which tokens are no padding: row i ends with i + 1 padding tokens, as far as one token stays."""
    kept = (length - 1 - torch.arange(batch)).clamp(min=1)
    return torch.arange(length) < kept[:, None]


def grid_ids(height: int, width: int, axes: int = 3, first: int = 0) -> torch.Tensor:
    """Position ids (tokens, axes) of an image: `first` on axis 0, row on axis 1, column on axis 2."""
    ids = torch.zeros(height, width, axes)
    ids[..., 0] = first
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)
    return ids.reshape(height * width, axes)
