"""The figures of attention written down as their formulas say, in double precision and all at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    filled: tuple[Tensor, float] | None = None,
):
    """softmax(scale q k^T + mask), (..., N, M), after some scores were filled."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("...nk,...mk->...nm", query.double(), key.double()) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.double()
    if filled is not None:
        scores = torch.where(filled[0], filled[1], scores)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    return scores.softmax(-1)


def figures(attention: Tensor, key: Tensor, window: int) -> dict[str, float]:
    """Those of weights (..., N, M)."""
    queries, keys = attention.shape[-2:]
    entropy = -(attention * torch.where(attention > 0, attention, 1.0).log()).sum(-1).mean()
    found = {
        "entropy": entropy,
        "sink": attention.mean(-2).amax(-1).mean(),
        "key_mean": (key.double().mean(-2).norm(dim=-1) / key.double().norm(dim=-1).mean(-1)).mean(),
    }
    if queries == keys:
        near = torch.tensor([[abs(i - j) <= window for j in range(keys)] for i in range(queries)])
        found["locality"] = (attention * near).sum((-1, -2)).mean() / queries
    return {name: float(value) for name, value in found.items()}


def on_grid(attention: Tensor, sizes: tuple[int, ...], first: int, reach: float) -> float:
    """The weight of queries on the grid on keys at most `reach` away there."""
    places = list(torch.cartesian_prod(*(torch.arange(size) for size in sizes)).tolist())
    total = 0.0
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            if math.dist(a, b) <= reach:
                total += float(attention[..., first + i, first + j].mean())
    return total / len(places)


@contextmanager
def attention_seen() -> Iterator[list[dict[str, Any]]]:
    """What `scaled_dot_product_attention` is called with inside the block, in order."""
    seen: list[dict[str, Any]] = []
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is F.scaled_dot_product_attention:
                given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
                seen.append({k: v.clone() if isinstance(v, Tensor) else v for k, v in given.items()})
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen


def figures_of_call(given: dict[str, Any]) -> dict[str, float]:
    """The figures of one such call, at the default window."""
    query, key = given["query"], given["key"]
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    found = weights(query, key, given.get("attn_mask"), given.get("is_causal", False), given.get("scale"))
    return figures(found, key, max(1, query.shape[-2] // 8))
