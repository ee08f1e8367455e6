"""Softmax attention within neighbourhoods, tile by tile.

Shape legend: B batch, H heads, N tokens, K features of a head, E = H * K, T tiles, Q queries of a tile, S keys within
reach of a tile, X = B * T. Along one axis of L tokens: t tiles, q queries of a tile, s keys within its reach.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from surgery.operators.masks import among, within
from surgery.operators.softmax import all_finite, any_between, finite

# Queries of a tile along each axis at least: fewer waste fewer masked scores, more make better matrix products.
TILE = {1: 32, 2: 8, 3: 4}
# Keys of tiles that a processor takes at a time: those of all do not fit its cache.
PORTION = 4096


@dataclass(frozen=True)
class Masks:
    """What tokens of a grid see of each other, (B, H, N or 1, N), and of a text, (B, H, N or 1, T).

    Attributes:
        image, text: boolean, or added to the scores.
    """

    image: Tensor
    text: Tensor

    @classmethod
    def of(cls, mask_BHNM: Tensor, image: Tensor, text: Tensor) -> Masks:
        """Those in a mask of all tokens: these places are of the grid, the others of the text."""
        return cls(*(among(mask_BHNM, image[:, None], columns[None]) for columns in (image, text)))

    def strided(self, places_RN: Tensor, batch: int) -> Masks:
        """Those of each of R groups of tokens, of each sample: (X, H, ..)."""
        rows = places_RN.unsqueeze(2)
        image = among(self.image, rows, places_RN.unsqueeze(1))
        every = torch.arange(self.text.shape[3], device=places_RN.device)
        text = among(self.text, rows, every.expand(len(places_RN), 1, -1))
        return Masks(*(rearrange(_expand(x, batch), "b h r n m -> (b r) h n m") for x in (image, text)))

    def of_tiles(self, seen_TQS: Tensor, queries_TQ: Tensor, keys_TS: Tensor, batch: int) -> Tensor:
        """What each query of a tile sees within its reach, then of the text: (X, H, Q, S + T)."""
        rows = queries_TQ.unsqueeze(2)
        near = within(seen_TQS, among(self.image, rows, keys_TS.unsqueeze(1)))
        every = torch.arange(self.text.shape[3], device=rows.device)
        text = among(self.text, rows, every.expand(len(rows), 1, -1)).expand(*near.shape[:4], -1)
        mask_XHQS: Tensor = rearrange(_expand(torch.cat([near, text], 4), batch), "b h t q s -> (b t) h q s")
        return mask_XHQS


def _expand(x: Tensor, batch: int) -> Tensor:
    return x.expand(batch, *x.shape[1:])


def dilated_attention(
    q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor, *, heads: int, window: int, dilation: int, grid: tuple[int, ...],
    text: tuple[Tensor, Tensor] | None, mask: Masks | None = None,
) -> Tensor:  # fmt: skip
    """Neighbourhood attention among the tokens whose places are equal modulo `dilation`: (B, N, E)."""
    if dilation == 1:
        return neighbourhood_attention(q_BNE, k_BNE, v_BNE, heads=heads, window=window, grid=grid, text=text, mask=mask)
    batch, width = len(q_BNE), q_BNE.shape[2]
    groups = _strided(grid, dilation, q_BNE.device)
    results = []
    for places_RN, sizes_RN in groups:
        count = len(places_RN)
        q_XNE, k_XNE, v_XNE = (
            x.index_select(1, places_RN.flatten()).view(batch * count, -1, width) for x in (q_BNE, k_BNE, v_BNE)
        )
        repeated = text and (text[0].repeat_interleave(count, 0), text[1].repeat_interleave(count, 0))
        y_XNE = neighbourhood_attention(
            q_XNE, k_XNE, v_XNE, heads=heads, window=window, grid=sizes_RN, text=repeated,
            mask=mask and mask.strided(places_RN, batch),
        )  # fmt: skip
        results.append(y_XNE.reshape(batch, -1, width))
    order = torch.cat([places_RN.flatten() for places_RN, _ in groups])
    return torch.cat(results, 1).index_select(1, order.argsort())


def _strided(grid: tuple[int, ...], dilation: int, device: torch.device) -> list[tuple[Tensor, tuple[int, ...]]]:
    """The grids of every `dilation`-th token, R of equal sizes together: places (R, N) and sizes."""
    numbers = torch.arange(math.prod(grid), device=device).view(grid)
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for first in itertools.product(*(range(min(dilation, size)) for size in grid)):
        strided = numbers[tuple(slice(start, None, dilation) for start in first)]
        groups.setdefault(tuple(strided.shape), []).append(strided.flatten())
    return [(torch.stack(places), sizes) for sizes, places in groups.items()]


def neighbourhood_attention(
    q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor, *, heads: int, window: int, grid: tuple[int, ...],
    text: tuple[Tensor, Tensor] | None = None, mask: Masks | None = None,
) -> Tensor:  # fmt: skip
    """Softmax attention of each token to those of its neighbourhood, and to a text's keys and values: (B, N, E).

    The grid is cut into tiles; the queries of each attend to the keys within its reach, under a small mask. A key or
    value that is not finite makes NaN of the outputs whose neighbourhood holds it, and of no other.
    """
    axes = [_Axis(size, window, TILE[len(grid)], q_BNE.device) for size in grid]
    if all_finite(k_BNE, v_BNE):
        return _in_tiles(q_BNE, k_BNE, v_BNE, axes, heads, text, mask)
    finite_BN1 = finite(k_BNE) & finite(v_BNE)
    k_BNE, v_BNE = (x.masked_fill(~finite_BN1, 0.0) for x in (k_BNE, v_BNE))
    y_BNE = _in_tiles(q_BNE, k_BNE, v_BNE, axes, heads, text, mask)
    return y_BNE.masked_fill(_any_near(~finite_BN1, axes), torch.nan)


def _in_tiles(
    q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor, axes: list[_Axis], heads: int,
    text: tuple[Tensor, Tensor] | None, mask: Masks | None,
) -> Tensor:  # fmt: skip
    """What `neighbourhood_attention` makes of keys and values that are finite."""
    grid = tuple(axis.size for axis in axes)
    queries_TQ = _flat([axis.queries_tq for axis in axes], grid)
    keys_TS = _flat([axis.keys_ts for axis in axes], grid)
    seen_TQS = _all_axes([axis.seen_tqs for axis in axes])
    size = _at_a_time(k_BNE, keys_TS)
    y_BTQE = torch.cat([
        _attend(q_BNE, k_BNE, v_BNE, tiles, heads, text, mask)
        for tiles in zip(*(torch.split(x, size) for x in (queries_TQ, keys_TS, seen_TQS)), strict=True)
    ], 1)  # fmt: skip
    return _untile(y_BTQE, axes)


def _at_a_time(k_BNE: Tensor, keys_TS: Tensor) -> int:
    """How many tiles are computed at once: all, unless that is slow, as in eager mode on a CPU."""
    tiles, keys = keys_TS.shape
    return tiles if not k_BNE.is_cpu or torch.compiler.is_compiling() else max(1, PORTION // (len(k_BNE) * keys))


def _attend(
    q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor, tiles: tuple[Tensor, Tensor, Tensor], heads: int,
    text: tuple[Tensor, Tensor] | None, mask: Masks | None,
) -> Tensor:  # fmt: skip
    """What the queries of some tiles make of the keys that they see, and of a text's: (B, T, Q, E).

    `tiles` are the places of their queries, (T, Q), of their keys, (T, S), and which are seen by which, (T, Q, S).
    """
    queries_TQ, keys_TS, seen_TQS = tiles
    q_XHQK = _take(q_BNE, queries_TQ, heads)
    k_XHSK, v_XHSK = (_take(x, keys_TS, heads) for x in (k_BNE, v_BNE))
    if text is not None:
        k_XHSK, v_XHSK = (_beside(x, each, heads, len(keys_TS)) for x, each in zip((k_XHSK, v_XHSK), text, strict=True))
    if mask is not None:
        mask_XHQS = mask.of_tiles(seen_TQS, queries_TQ, keys_TS, len(q_BNE))
    else:
        if text is not None:
            seen_TQS = F.pad(seen_TQS, (0, text[0].shape[1]), value=True)
        # That of a single tile is the same for all samples.
        mask_XHQS = (seen_TQS if len(seen_TQS) == 1 else seen_TQS.repeat(len(q_BNE), 1, 1)).unsqueeze(1)
    y_XHQK = F.scaled_dot_product_attention(q_XHQK, k_XHSK, v_XHSK, attn_mask=mask_XHQS)
    y_BTQE: Tensor = rearrange(y_XHQK, "(b t) h q k -> b t q (h k)", b=len(q_BNE))
    return y_BTQE


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
    # A single tile of all tokens has them in their order.
    taken = x_BNE if tiles == 1 and queries == x_BNE.shape[1] else x_BNE.index_select(1, places_TQ.flatten())
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
