"""Queries, keys and masks of `nn.MultiheadAttention`, which has its core inside.

Shape legend: B batch, N queries, M keys, H heads, K features of a head, D features of the stream.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def why_unseen(module: nn.MultiheadAttention) -> str | None:
    """What keeps its queries and keys from being computed here; None if nothing does."""
    if module.bias_k is not None or module.add_zero_attn:
        return "adds keys of its own"
    return None


def queries_and_keys(module: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The projected heads (B, H, N, K) and (B, H, M, K)."""
    width = module.embed_dim
    if module.in_proj_weight is not None:
        q_weight, k_weight = module.in_proj_weight[:width], module.in_proj_weight[width : 2 * width]
    else:
        q_weight, k_weight = module.q_proj_weight, module.k_proj_weight
    bias = module.in_proj_bias
    q_bias, k_bias = (None, None) if bias is None else (bias[:width], bias[width : 2 * width])
    projected = F.linear(query, q_weight, q_bias), F.linear(key, k_weight, k_bias)
    heads = [x.view(*x.shape[:-1], module.num_heads, module.head_dim) for x in projected]
    if query.ndim == 2:  # one sequence, (N, D)
        return heads[0].transpose(0, 1)[None], heads[1].transpose(0, 1)[None]
    order = (0, 2, 1, 3) if module.batch_first else (1, 2, 0, 3)
    return heads[0].permute(order), heads[1].permute(order)


def mask_of(module: nn.MultiheadAttention, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Both masks as one that is added to scores (B, H, N, M); a boolean one tells there what is *not* seen."""
    parts = []
    if padding is not None:
        parts.append(_added(padding)[..., None, None, :])
    if mask is not None:
        added = _added(mask)
        parts.append(added if added.ndim == 2 else added.view(-1, module.num_heads, *added.shape[1:]))
    return sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask, -math.inf)
