"""What softmax attention looks at: its weights are computed again from queries and keys, a few queries at a time.

Shape legend: G batch and heads, N queries, M keys, K features of a head, R queries at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Filled = tuple[Tensor, float]
"""A boolean tensor that is expanded to scores, and what these are where it is true."""

AT_ONCE = 1 << 22
"""Weights that are held at a time; those of one query for all heads of a batch, if these are more."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of an attention lie.

    Attributes:
        sizes: of their grid, in raster order; two or three axes.
        first: number of tokens before those on the grid.
    """

    sizes: tuple[int, ...]
    first: int = 0

    def positions(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of all tokens: the positions (N, axes), and which of them lie on the grid, (N,)."""
        number = torch.arange(tokens, device=device) - self.first
        count = math.prod(self.sizes)
        axes = torch.unravel_index(number.clamp(0, count - 1), self.sizes)
        return torch.stack(axes, 1), (number >= 0) & (number < count)


def attention_figures(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    *,
    filled: Filled | None = None,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    layout: Layout | None = None,
) -> dict[str, float]:
    """Figures of the weights A = softmax(scale * query key^T + mask), means over batch, heads and queries.

    Args:
        query: (..., N, K).
        key: (..., M, K), of as many heads, or of fewer that groups of the queries' share.
        mask: as `scaled_dot_product_attention` takes it.
        filled: where scores are another number, and that number, which comes after the mask.
        causal: whether query i sees the keys up to i only.
        scale: 1 / sqrt(K) by default.
        window: k of the locality, see `window_of`.
        layout: the grid that the tokens lie on.

    Returns:
        `locality`, the weight on keys at most k places away in raster order, L_k = 1/N sum_ij A_ij [|i - j| <= k]
        (Grafting, arXiv 2506.05340, section 3), if N = M; `locality_2d` or `locality_3d`, that of queries on a grid on
        keys in a disc or ball of as many places, see `radius_of`; `entropy` in nats; `sink`, the mean weight on the key
        that gets most; `key_mean`, the norm of the mean key over the mean norm of keys, 1 if all keys are the same.
    """
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3) if key.ndim > 2 else key
    queries, keys = query.shape[-2], key.shape[-2]
    near = _Near(queries, keys, window or window_of(queries), layout, query.device)
    entropy, on_key = 0.0, torch.zeros(query.shape[:-2].numel(), keys, dtype=torch.float64, device=query.device)
    for rows, weights_GRM in attention_weights(query, key, mask, filled=filled, causal=causal, scale=scale):
        entropy -= float(torch.special.xlogy(weights_GRM, weights_GRM).sum())
        on_key += weights_GRM.sum(1)
        near.add(rows, weights_GRM)
    total = on_key.shape[0] * queries
    return {
        **{name: value / on_key.shape[0] for name, value in near.shares().items()},
        "entropy": entropy / total,
        "sink": float(on_key.amax(1).mean()) / queries,
        "key_mean": _key_mean(key),
    }


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, *,
    filled: Filled | None = None, causal: bool = False, scale: float | None = None,
) -> Iterator[tuple[slice, Tensor]]:  # fmt: skip
    """The weights of a few queries at a time, (G, R, M) in float64, and which queries these are.

    A query that sees no key has no weights but zeros.
    """
    heads, (queries, features), keys = query.shape[:-2], query.shape[-2:], key.shape[-2]
    query_GNK = query.reshape(-1, queries, features).double() * (features**-0.5 if scale is None else scale)
    key_GKM = key.reshape(-1, keys, features).double().transpose(1, 2)
    seen = None if mask is None else mask.expand(*heads, queries, keys)
    covered = None if filled is None else filled[0].expand(*heads, queries, keys)
    step = max(1, AT_ONCE // (len(query_GNK) * keys))
    for start in range(0, queries, step):
        rows = slice(start, min(start + step, queries))
        scores_GRM = query_GNK[:, rows] @ key_GKM
        if seen is not None:
            part = seen[..., rows, :].reshape(scores_GRM.shape)
            scores_GRM = scores_GRM.masked_fill(~part, -math.inf) if part.dtype == torch.bool else scores_GRM + part
        if filled is not None and covered is not None:
            scores_GRM = scores_GRM.masked_fill(covered[..., rows, :].reshape(scores_GRM.shape), filled[1])
        if causal:
            scores_GRM = scores_GRM.masked_fill(_after(rows, keys, query.device), -math.inf)
        # Of a query that sees nothing torch gives no numbers here, and zeros in its attention.
        unseeing = scores_GRM.amax(-1, keepdim=True) == -math.inf
        yield rows, scores_GRM.softmax(-1).masked_fill(unseeing, 0.0)


def window_of(tokens: int) -> int:
    """The k of the locality of so many tokens: an eighth of them, which is the paper's 32 of 256."""
    return max(1, tokens // 8)


def radius_of(window: int, axes: int) -> float:
    """The radius of a disc, or a ball, of as many places as the 2 k + 1 of a window in raster order."""
    places = 2 * window + 1
    return math.sqrt(places / math.pi) if axes == 2 else float((3 * places / (4 * math.pi)) ** (1 / 3))


class _Near:
    """Sums the weight on near keys."""

    def __init__(self, queries: int, keys: int, window: int, layout: Layout | None, device: torch.device) -> None:
        self._place = torch.arange(keys, device=device) if queries == keys else None
        self._window, self._queries = window, queries
        self._raster = self._on_grid = 0.0
        self._layout = layout if queries == keys else None
        if self._layout is not None:
            positions, self._is_on = self._layout.positions(keys, device)
            self._positions = positions
            self._reach = radius_of(window, len(self._layout.sizes)) ** 2

    def add(self, rows: slice, weights_GRM: Tensor) -> None:
        if self._place is None:
            return
        place = self._place
        self._raster += _weight_where((place[rows, None] - place).abs() <= self._window, weights_GRM)
        if self._layout is not None:
            near = (self._positions[rows, None] - self._positions).square().sum(-1) <= self._reach
            self._on_grid += _weight_where(near & self._is_on[rows, None] & self._is_on, weights_GRM)

    def shares(self) -> dict[str, float]:
        """The weights by name, summed over batch and heads."""
        if self._place is None:
            return {}
        raster = {"locality": self._raster / self._queries}
        if self._layout is None:
            return raster
        axes = len(self._layout.sizes)
        return raster | {f"locality_{axes}d": self._on_grid / int(self._is_on.sum())}


def _weight_where(chosen_RM: Tensor, weights_GRM: Tensor) -> float:
    return float((weights_GRM * chosen_RM).sum())


def _after(rows: slice, keys: int, device: torch.device) -> Tensor:
    """Which keys come after each query, (R, M)."""
    return torch.arange(keys, device=device) > torch.arange(rows.start, rows.stop, device=device)[:, None]


def _key_mean(key: Tensor) -> float:
    key = key.double()
    shares = key.mean(-2).norm(dim=-1) / key.norm(dim=-1).mean(-1).clamp_min(torch.finfo(key.dtype).tiny)
    return float(shares.mean())
