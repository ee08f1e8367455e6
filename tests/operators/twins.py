"""Naive twins of the operators: plain definitions, one token at a time.

Shape legend: B batch, N tokens, D features of the stream, E = heads * head_dim features inside the mixer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from surgery.operators import MixerDims


def affine(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def window_seen(i: int, length: int, window: int, causal: bool) -> set[int]:
    return {j for j in range(length) if i - window <= j <= (i if causal else i + window)}


def kernel_seen(i: int, length: int, kernel: int, causal: bool) -> list[int]:
    """The token under each tap of the filter; those beyond the ends too."""
    first = i - (kernel - 1 if causal else (kernel - 1) // 2)
    return list(range(first, first + kernel))


def attention(weights: Mapping[str, Tensor], x_BND: Tensor, dims: MixerDims, seen: list[set[int]]) -> Tensor:
    """Softmax attention of token i over seen[i], one token at a time."""
    q, k, v = (
        affine(weights, name, x_BND).unflatten(2, (dims.heads, dims.head_dim)) for name in ("to_q", "to_k", "to_v")
    )
    rows = []
    for i, js in enumerate(sorted(s) for s in seen):
        scores = (q[:, i, None] * k[:, js]).sum(3, keepdim=True) / math.sqrt(dims.head_dim)
        share = scores.exp() / scores.exp().sum(1, keepdim=True)
        rows.append((share * v[:, js]).sum(1).flatten(1))
    return affine(weights, "to_out.0", torch.stack(rows, 1))


def filtered(weights: Mapping[str, Tensor], name: str, x_BNC: Tensor, kernel: int, causal: bool) -> Tensor:
    """The depthwise filter `name`, tap by tap."""
    rows = []
    for i in range(x_BNC.shape[1]):
        row = weights[f"{name}.bias"].expand(x_BNC.shape[0], -1)
        for tap, j in enumerate(kernel_seen(i, x_BNC.shape[1], kernel, causal)):
            if 0 <= j < x_BNC.shape[1]:
                row = row + weights[f"{name}.weight"][:, 0, tap] * x_BNC[:, j]
        rows.append(row)
    return torch.stack(rows, 1)


def hyena(weights: Mapping[str, Tensor], x_BND: Tensor, kind: str, kernel: int, causal: bool) -> Tensor:
    """out_proj(q * g(k * v)), with filters on q, k and v (SE, X) and on k * v (SE, Y)."""
    qkv = affine(weights, "in_proj", x_BND)
    if kind != "hyena_y":
        qkv = filtered(weights, "conv", qkv, kernel, causal)
    q, k, v = qkv.tensor_split(3, dim=2)
    mixed = k * v if kind == "hyena_x" else filtered(weights, "inner", k * v, kernel, causal)
    return affine(weights, "out_proj", q * mixed)
