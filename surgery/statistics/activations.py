"""What an operator is given, gives, and adds to the stream, as numbers.

Shapes: B samples first, D features last, of any tensor of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 6.0
"""Standard deviations from the mean beyond which a value is an outlier."""


def moments(x: Tensor) -> dict[str, float]:
    """`mean`, the mean `square`, the share of `outliers`, more than FAR standard deviations away, and the `largest`
    magnitude."""
    x = x.double()
    variance, mean = torch.var_mean(x, correction=0)
    away = (x - mean).abs()
    return {
        "mean": float(mean),
        "square": float(variance + mean.square()),
        "outliers": float((away > FAR * variance.sqrt()).double().mean()),
        "largest": float(x.abs().max()),
    }


def contribution(stream: Sequence[Tensor], added: Sequence[Tensor]) -> float:
    """The norm of what is `added` over that of the stream, of tensors taken together; the mean over samples."""
    over = _squares(stream).clamp_min(torch.finfo(torch.float64).tiny)
    return float((_squares(added) / over).sqrt().mean())


def similarity(stream: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The cosine between a token before and after, the mean over all tokens of all tensors."""
    cosines = [
        F.cosine_similarity(a.double(), b.double(), dim=-1).flatten() for a, b in zip(stream, after, strict=True)
    ]
    return float(torch.cat(cosines).mean())


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    """The squared norm of each sample, (B,); that of all together, (1,), where streams have no samples in common."""
    alike = len({len(x) for x in tensors}) == 1
    squares = [x.double().square().flatten(1 if alike else 0).sum(-1) for x in tensors]
    return torch.stack(squares).sum(0).reshape(-1)
