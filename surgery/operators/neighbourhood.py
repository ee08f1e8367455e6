"""Neighbourhood attention over pictures and videos, in time and memory linear in the number of tokens.

Shape legend: B batch, H heads, N tokens, K features of a head, E = H * K, T tiles, Q queries of a tile, S keys within
reach of a tile, X = B * T. Along one axis of L tokens: t tiles, q queries of a tile, s keys within its reach.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.backends import kernel
from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.grid import Grid, Text, apart, on_grid, require_grid, sizes, together
from surgery.operators.mixer import MixerConfig, MixerCore
from surgery.operators.softmax import any_between, finite, flops_softmax

# Queries of a tile along each axis at least: fewer waste fewer masked scores, more make better matrix products.
TILE = {2: 8, 3: 4}


class NeighbourhoodAttention(MixerConfig):
    """Each token attends to the window x window (x window) tokens around it.

    Source: "Neighborhood Attention Transformer" (arXiv 2204.07143). At a border the window is shifted inward, so that
    every token sees as many; on a grid that is smaller than the window it is the whole axis. Tokens of a text see all
    tokens and are seen by all, as in "CLEAR" (arXiv 2412.16112), which makes FLUX.1 linear.

    Attributes:
        window: tokens along each axis, odd.
        grid: rows and columns, or frames, rows and columns; None means a square.
        text: where tokens stand that lie on no grid, as in joint attention; in plain PyTorch only.
        backend: the kernel; see `surgery.operators.backends`.
    """

    kind: Literal["neighbourhood_attention"] = "neighbourhood_attention"
    window: PositiveInt = 7
    grid: Grid | None = None
    text: Text | None = None
    backend: Literal["auto", "torch", "natten", "flex-attention"] = "auto"

    @field_validator("window")
    @classmethod
    def _is_odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError(f"window must be odd, got {window}")
        return window

    @model_validator(mode="after")
    def _has_a_layout(self) -> Self:
        require_grid(self.grid, self.text)
        if self.text is not None and self.backend not in ("auto", "torch"):
            raise ValueError(
                f"text={self.text!r} is not for {self.backend}, which knows a grid only; use backend='torch'"
            )
        return self

    @override
    def build(self, dims: MixerDims) -> NeighbourhoodMixer:
        """Return a new NeighbourhoodMixer with random weights."""
        return NeighbourhoodMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> NeighbourhoodCore:
        """Return a NeighbourhoodCore."""
        return NeighbourhoodCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """Those of full attention times the share of scores kept."""
        if self.grid is None:
            seen = min(self.window**2, tokens)
        else:
            seen = math.prod(min(self.window, size) for size in self.grid)
        image = on_grid(tokens, self.grid, self.text)
        text = tokens - image
        return flops_softmax(dims, pairs=batch * (image * (seen + text) + text * tokens))


class NeighbourhoodCore(MixerCore):
    """Softmax attention within a neighbourhood."""

    def __init__(self, config: NeighbourhoodAttention, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.window = config.window
        self.grid = config.grid
        self.text = config.text
        self.backend = config.backend

    @override
    def mix(
        self,
        q_BHNK: Tensor,
        k_BHMK: Tensor,
        v_BHMK: Tensor,
        mask: Tensor | None = None,
        *,
        grid: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Attend within the neighbourhood on `grid`, or on the config's, or on a square: (B, H, N, K).

        Raises:
            RewriteError: the tokens do not lie on that grid.
        """
        grid = grid or self.grid
        found = sizes(grid, on_grid(q_BHNK.shape[2], grid, self.text), axes=len(grid) if grid else 2)
        run = None if self.text else kernel(self.backend, self.config.kind, q_BHNK, window=self.window, grid=found)
        if run is not None:
            return run(q_BHNK, k_BHMK, v_BHMK, window=self.window, grid=found)
        heads = q_BHNK.shape[1]
        qkv = (rearrange(x, "b h n k -> b n (h k)") for x in (q_BHNK, k_BHMK, v_BHMK))
        (q_BNE, text_BTE), (k_BNE, text_k_BTE), (v_BNE, text_v_BTE) = (apart(x, found, self.text) for x in qkv)
        y_BNE = neighbourhood_attention(
            q_BNE, k_BNE, v_BNE, heads=heads, window=self.window, grid=found, text=(text_k_BTE, text_v_BTE)
        )
        if text_BTE.shape[1]:
            query_BHTK = rearrange(text_BTE, "b t (h k) -> b h t k", h=heads)
            seeing_BHTK = F.scaled_dot_product_attention(query_BHTK, k_BHMK, v_BHMK)
            y_BNE = together(y_BNE, rearrange(seeing_BHTK, "b h t k -> b t (h k)"), self.text)
        y_BHNK: Tensor = rearrange(y_BNE, "b n (h k) -> b h n k", h=heads)
        return y_BHNK


class NeighbourhoodMixer(CoreMixer):
    """Neighbourhood attention between projections."""

    @override
    def why_inexact(self, attention: nn.Module) -> str | None:
        """Unless the config gives a grid that the window covers: other grids are known at run time only."""
        assert isinstance(self.config, NeighbourhoodAttention)
        grid, window = self.config.grid, self.config.window
        if grid is not None and max(grid) <= window:
            return None
        return f"a window of {window} does not cover {'every square' if grid is None else f'the grid {grid}'}"


def neighbourhood_attention(
    q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor, *, heads: int, window: int, grid: tuple[int, ...],
    text: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Softmax attention of each token to those of its neighbourhood, and to a text's keys and values: (B, N, E).

    The grid is cut into tiles; the queries of each attend to the keys within its reach, under a small mask. A key or
    value that is not finite makes NaN of the outputs whose neighbourhood holds it, and of no other.
    """
    axes = [_Axis(size, window, TILE[len(grid)], q_BNE.device) for size in grid]
    queries_TQ = _flat([axis.queries_tq for axis in axes], grid)
    keys_TS = _flat([axis.keys_ts for axis in axes], grid)
    finite_BN1 = finite(k_BNE) & finite(v_BNE)

    q_XHQK = _take(q_BNE, queries_TQ, heads)
    k_XHSK, v_XHSK = (_take(x.masked_fill(~finite_BN1, 0.0), keys_TS, heads) for x in (k_BNE, v_BNE))
    seen_TQS = _all_axes([axis.seen_tqs for axis in axes])
    if text is not None and text[0].shape[1]:
        k_XHSK, v_XHSK = (_beside(x, each, heads, len(keys_TS)) for x, each in zip((k_XHSK, v_XHSK), text, strict=True))
        seen_TQS = F.pad(seen_TQS, (0, text[0].shape[1]), value=True)
    seen_X1QS = seen_TQS.repeat(len(q_BNE), 1, 1).unsqueeze(1)
    y_XHQK = F.scaled_dot_product_attention(q_XHQK, k_XHSK, v_XHSK, attn_mask=seen_X1QS)
    y_BNE = _untile(rearrange(y_XHQK, "(b t) h q k -> b t q (h k)", b=len(q_BNE)), axes)
    return y_BNE.masked_fill(_any_near(~finite_BN1, axes), torch.nan)


class _Axis:
    """One axis of `size` tokens: which tokens are in each tile, which keys in its reach, and which of them are seen."""

    def __init__(self, size: int, window: int, least: int, device: torch.device) -> None:
        self.size = size
        self.seen = min(window, size)
        self.tile = size if window >= size else min(size, max(least, (window + 1) // 2))
        self.tiles = (size + self.tile - 1) // self.tile
        reach = min(self.tile + self.seen - 1, size)
        first_t1 = torch.arange(self.tiles, device=device).unsqueeze(1) * self.tile
        # Beyond the end the last token is repeated; what it gives there is thrown away.
        self.queries_tq = (first_t1 + torch.arange(self.tile, device=device)).clamp(max=size - 1)
        first_key_t1 = (first_t1 - self.seen // 2).clamp(0, size - reach)
        self.keys_ts = first_key_t1 + torch.arange(reach, device=device)

    def start(self, i: Tensor) -> Tensor:
        """The first token that each token i sees: the window is shifted inward at both ends."""
        return (i - self.seen // 2).clamp(0, self.size - self.seen)

    @property
    def seen_tqs(self) -> Tensor:
        """Whether a query of a tile sees a key within the tile's reach."""
        start_tq1, key_t1s = self.start(self.queries_tq).unsqueeze(2), self.keys_ts.unsqueeze(1)
        return (key_t1s >= start_tq1) & (key_t1s < start_tq1 + self.seen)


def _flat(places: list[Tensor], grid: tuple[int, ...]) -> Tensor:
    """Places along each axis, (t, q) each, as places in raster order: (T, Q)."""
    flat_TQ = places[0]
    for place_tq, size in zip(places[1:], grid[1:], strict=True):
        flat_TQ = (flat_TQ[:, None, :, None] * size + place_tq[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    return flat_TQ


def _all_axes(seen: list[Tensor]) -> Tensor:
    """Which keys are seen along every axis, from (t, q, s) each: (T, Q, S)."""
    seen_TQS = seen[0]
    for seen_tqs in seen[1:]:
        both = seen_TQS[:, None, :, None, :, None] & seen_tqs[None, :, None, :, None, :]
        seen_TQS = both.flatten(4, 5).flatten(2, 3).flatten(0, 1)
    return seen_TQS


def _take(x_BNE: Tensor, places_TQ: Tensor, heads: int) -> Tensor:
    """The tokens at these places: (X, H, Q, K)."""
    tiles, queries = places_TQ.shape
    taken = x_BNE.index_select(1, places_TQ.flatten())
    return taken.view(len(x_BNE) * tiles, queries, heads, -1).transpose(1, 2)


def _beside(x_XHSK: Tensor, text_BTE: Tensor, heads: int, tiles: int) -> Tensor:
    """The tokens within reach of each tile, and those of the text."""
    text_BHTK = rearrange(text_BTE, "b t (h k) -> b h t k", h=heads)
    return torch.cat([x_XHSK, text_BHTK.repeat_interleave(tiles, 0)], dim=2)


def _untile(y_BTQE: Tensor, axes: list[_Axis]) -> Tensor:
    """Tokens of tiles in raster order: (B, N, E)."""
    rank = len(axes)
    tiled = y_BTQE.view(len(y_BTQE), *[axis.tiles for axis in axes], *[axis.tile for axis in axes], -1)
    pairs = [axis for pair in zip(range(1, rank + 1), range(rank + 1, 2 * rank + 1), strict=True) for axis in pair]
    y = tiled.permute(0, *pairs, 2 * rank + 1)
    for dim, axis in enumerate(axes, 1):
        y = y.flatten(dim, dim + 1).narrow(dim, 0, axis.size)
    return y.flatten(1, -2)


def _any_near(flags_BN1: Tensor, axes: list[_Axis]) -> Tensor:
    """Whether any token of each token's neighbourhood is flagged: (B, N, 1)."""
    flags = flags_BN1.view(len(flags_BN1), *[axis.size for axis in axes], 1)
    for dim, axis in enumerate(axes, 1):
        start = axis.start(torch.arange(axis.size, device=flags.device))
        flags = any_between(flags, start, start + axis.seen, dim)
    return flags.flatten(1, -2)
