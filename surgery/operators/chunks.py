"""Sequences in chunks of tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def in_chunks(x: Tensor, size: int) -> Tensor:
    """(B, N, ...) as (B, M, size, ...), with zeros behind the end."""
    chunks = (x.shape[1] + size - 1) // size
    padding = (0, 0) * (x.ndim - 2) + (0, chunks * size - x.shape[1])
    return (F.pad(x, padding) if padding[-1] else x).reshape(len(x), chunks, size, *x.shape[2:])
