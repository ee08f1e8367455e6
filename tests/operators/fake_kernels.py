"""Stand-ins for optional packages: modules with the documented signatures, in plain PyTorch, so that layouts are tested.

Shape legend: B batch, N tokens, H heads, K features of a head, C channels, G groups, S features of the state.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q_BNHK: Tensor, k_BNGK: Tensor, v_BNGK: Tensor, seen: Tensor | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BNHK, k_BNGK, v_BNGK))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2)


def within(tokens: int, left: int, right: int) -> Tensor:
    i, j = torch.arange(tokens)[:, None], torch.arange(tokens)
    return (i - j <= left) & (j - i <= right)


def flash_2(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)) -> Tensor:
    left, right = (q.shape[1] if each < 0 else each for each in window_size)
    return attention(q, k, v, within(q.shape[1], left, right))


def flash_4(q, k, v, softmax_scale=None, causal=False, window_size=(None, None)) -> tuple[Tensor, None]:
    left, right = (q.shape[1] if each is None else each for each in window_size)
    return attention(q, k, v, within(q.shape[1], left, right)), None


def neighbourhood(query, key, value, kernel_size, stride=1, dilation=1, is_causal=False) -> Tensor:
    """Query by query, heads last, as NATTEN has them."""
    grid = query.shape[1:-2]
    q, k, v = (x.flatten(1, len(grid)) for x in (query, key, value))
    places = torch.cartesian_prod(*[torch.arange(size) for size in grid])
    rows = []
    for i, place in enumerate(places):
        seen = torch.ones(len(places), dtype=torch.bool)
        for axis, (size, width) in enumerate(zip(grid, kernel_size, strict=True)):
            first = max(0, min(int(place[axis]) - width // 2, size - width))
            seen &= (places[:, axis] >= first) & (places[:, axis] < first + width)
        rows.append(attention(q[:, i : i + 1], k[:, seen], v[:, seen], None))
    return torch.cat(rows, 1).unflatten(1, grid)


def convolution(x, weight, bias=None, seq_idx=None, activation=None) -> Tensor:
    """(B, C, N), as causal-conv1d has them."""
    return F.conv1d(F.pad(x, (weight.shape[1] - 1, 0)), weight.unsqueeze(1), bias, groups=len(weight))


def scan(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False) -> Tensor:
    """Token by token; B and C are (B, N, G, S) with one group."""
    step = F.softplus(dt + dt_bias) if dt_softplus else dt
    state = x.new_zeros(*x.shape[:1], *x.shape[2:], B.shape[3])
    rows = []
    for i in range(x.shape[1]):
        entering = (step[:, i, :, None] * x[:, i])[..., None] * B[:, i, 0, None, None]
        state = (step[:, i] * A).exp()[..., None, None] * state + entering
        rows.append((state * C[:, i, 0, None, None]).sum(3))
    return torch.stack(rows, 1)


def module(**functions: Callable[..., Any]) -> types.ModuleType:
    made = types.ModuleType("fake")
    vars(made).update(functions)
    return made


MODULES = {
    "flash_attn": module(flash_attn_func=flash_2),
    "flash_attn.cute": module(flash_attn_func=flash_4),
    "natten": module(na2d=neighbourhood, na3d=neighbourhood),
    "causal_conv1d": module(causal_conv1d_fn=convolution),
    "mamba_ssm.ops.triton.ssd_combined": module(mamba_chunk_scan_combined=scan),
}
