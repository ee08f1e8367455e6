"""What softmax operators share: the cost of a pair, and which outputs a token that is not finite spoils.

Shape legend: B batch, N tokens, F features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from surgery.operators.dims import MixerDims


def flops_softmax(dims: MixerDims, pairs: int) -> int:
    """FLOPs of softmax attention over (query, key) pairs: each 4 E for q k^T and A v, and 3 H for softmax."""
    return pairs * (4 * dims.inner + 3 * dims.heads)


def all_finite(*tensors: Tensor) -> bool:
    """Whether every element is known to be finite, at next to no cost.

    A sum tells: it is finite only if all its terms are. To read it costs nothing on a CPU; on another device it would
    wait for all that is queued, and while a model is compiled there is nothing to read. There the answer is no.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return all(x.is_cpu and _reads_finite(x.detach().sum()) for x in tensors)


def _reads_finite(total: Tensor) -> bool:
    try:
        return math.isfinite(total.item())
    except RuntimeError:  # it stands for no number, as in `vmap` or under fake tensors
        return False


def finite(x_BNF: Tensor) -> Tensor:
    """Tokens all of whose features are finite: (B, N, 1)."""
    x_BNF = x_BNF.detach()
    # Two passes that write nothing take an eighth of the time of one over absolute values.
    return (x_BNF.amax(2, keepdim=True) < torch.inf) & (x_BNF.amin(2, keepdim=True) > -torch.inf)


def any_between(flags: Tensor, start: Tensor, stop: Tensor, dim: int) -> Tensor:
    """Whether any of the flags start[i] .. stop[i] - 1 along `dim` is set, for each i."""
    before = [0] * (2 * (flags.ndim - 1 - dim)) + [1, 0]
    total = F.pad(flags.long().cumsum(dim), before)
    return total.index_select(dim, stop) > total.index_select(dim, start)
