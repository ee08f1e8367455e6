"""Naive twins of the operators: plain definitions, one token at a time.

Shape legend: B batch, N tokens, D features of the stream, E = heads * head_dim features inside the mixer.
"""

from __future__ import annotations

import itertools
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


def neighbourhood_seen(grid: tuple[int, ...], window: int, dilation: int = 1) -> list[set[int]]:
    """For each token of the grid in raster order: those within the window, which is shifted inward at the borders.

    Of places that differ by no multiple of the dilation none sees the other.
    """
    places = list(itertools.product(*map(range, grid)))
    number = {place: i for i, place in enumerate(places)}
    seen = []
    for place in places:
        spans = []
        for x, size in zip(place, grid, strict=True):
            alike = [j for j in range(size) if (j - x) % dilation == 0]
            start = alike.index(x) - window // 2
            while start + window > len(alike):
                start -= 1
            spans.append(alike[max(start, 0) : max(start, 0) + window])
        seen.append({number[other] for other in itertools.product(*spans)})
    return seen


def attend(q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, seen: list[list[set[int]]]) -> Tensor:
    """Softmax attention of query i of sample b over the keys seen[b][i], one query at a time; zeros if there are none."""
    samples = []
    for q_HNK, k_HMK, v_HMK, keys in zip(q_BHNK, k_BHMK, v_BHMK, seen, strict=True):
        rows = []
        for i, js in enumerate(sorted(s) for s in keys):
            scores = (q_HNK[:, i, None] * k_HMK[:, js]).sum(2, keepdim=True) / math.sqrt(q_HNK.shape[2])
            share = scores.exp() / scores.exp().sum(1, keepdim=True)
            rows.append((share * v_HMK[:, js]).sum(1))
        samples.append(torch.stack(rows, 1))
    return torch.stack(samples)


def attention(
    weights: Mapping[str, Tensor], x_BND: Tensor, dims: MixerDims, seen: list[set[int]], groups: int | None = None
) -> Tensor:
    """Softmax attention of token i over seen[i], one token at a time; with groups, a key head serves several heads."""
    q, k, v = (
        affine(weights, name, x_BND).unflatten(2, (-1, dims.head_dim)).transpose(1, 2)
        for name in ("to_q", "to_k", "to_v")
    )
    serves = [h * (groups or dims.heads) // dims.heads for h in range(dims.heads)]
    y = attend(q, k[:, serves], v[:, serves], [seen] * len(x_BND))
    return affine(weights, "to_out.0", y.transpose(1, 2).flatten(2))


def features(weights: Mapping[str, Tensor], name: str, x_BHNK: Tensor) -> Tensor:
    """ReLU, or the softmaxes of both signs if there is a map for each head."""
    if f"{name}.weight" not in weights:
        return x_BHNK * (x_BHNK > 0)
    heads = []
    for x_BNK, weight_KK in zip(x_BHNK.unbind(1), weights[f"{name}.weight"], strict=True):
        mapped = x_BNK @ weight_KK
        both = [sign.exp() / sign.exp().sum(2, keepdim=True) for sign in (mapped, -mapped)]
        heads.append(torch.cat(both, 2))
    return torch.stack(heads, 1)


def attend_linearly(phi_q_BHNF: Tensor, phi_k_BHMF: Tensor, v_BHMK: Tensor) -> Tensor:
    """Each query's average of the values, its weight for a key being the product of the features."""
    rows = []
    for phi_q_BHF in phi_q_BHNF.unbind(2):
        share = (phi_q_BHF.unsqueeze(2) * phi_k_BHMF).sum(3, keepdim=True)
        rows.append((share * v_BHMK).sum(2) / (share.sum(2) + 1e-15))
    return torch.stack(rows, 2)


def linear(weights: Mapping[str, Tensor], x_BND: Tensor, dims: MixerDims, kernel: int, grid: tuple[int, ...]) -> Tensor:
    """Linear attention, plus a convolution of v if there is one."""
    v_BNE = affine(weights, "to_v", x_BND)
    q, k, v = (
        each.unflatten(2, (-1, dims.head_dim)).transpose(1, 2)
        for each in (affine(weights, "to_q", x_BND), affine(weights, "to_k", x_BND), v_BNE)
    )
    y = attend_linearly(features(weights, "core.phi_q", q), features(weights, "core.phi_k", k), v)
    y_BNE = y.transpose(1, 2).flatten(2)
    if "core.depthwise.weight" in weights:
        y_BNE = y_BNE + filtered(weights, "core.depthwise", v_BNE, kernel, False, grid)
    return affine(weights, "to_out.0", y_BNE)


def taps(i: int, grid: tuple[int, ...], kernel: int, causal: bool) -> dict[tuple[int, ...], int]:
    """The token under each tap of a filter over the grid, those beyond its ends left out."""
    places = list(itertools.product(*map(range, grid)))
    number = {place: j for j, place in enumerate(places)}
    spans = [kernel_seen(x, size, kernel, causal) for x, size in zip(places[i], grid, strict=True)]
    found = {}
    for tap in itertools.product(range(kernel), repeat=len(grid)):
        place = tuple(span[k] for span, k in zip(spans, tap, strict=True))
        if place in number:
            found[tap] = number[place]
    return found


def filtered(
    weights: Mapping[str, Tensor],
    name: str,
    x_BNC: Tensor,
    kernel: int,
    causal: bool,
    grid: tuple[int, ...] | None = None,
) -> Tensor:
    """The depthwise filter `name`, tap by tap."""
    rows = []
    for i in range(x_BNC.shape[1]):
        row = weights[f"{name}.bias"].expand(x_BNC.shape[0], -1)
        for tap, j in taps(i, grid or (x_BNC.shape[1],), kernel, causal).items():
            row = row + weights[f"{name}.weight"][(slice(None), 0, *tap)] * x_BNC[:, j]
        rows.append(row)
    return torch.stack(rows, 1)


def hyena(
    weights: Mapping[str, Tensor],
    x_BND: Tensor,
    kind: str,
    kernel: int,
    causal: bool,
    grid: tuple[int, ...] | None = None,
) -> Tensor:
    """out_proj(q * g(k * v)), with filters on q, k and v (SE, X) and on k * v (SE, Y)."""
    qkv = affine(weights, "in_proj", x_BND)
    if kind != "hyena_y":
        qkv = filtered(weights, "conv", qkv, kernel, causal, grid)
    q, k, v = qkv.tensor_split(3, dim=2)
    mixed = k * v if kind == "hyena_x" else filtered(weights, "inner", k * v, kernel, causal, grid)
    return affine(weights, "out_proj", q * mixed)
