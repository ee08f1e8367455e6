"""Sliding-window attention, in time and memory linear in the number of tokens.

Shape legend: B batch, N tokens, E features inside the mixer, H heads, K features of a head,
C chunks, Q queries of a chunk, S keys within reach of a chunk, X = B * C.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import NonNegativeInt
from torch import Tensor
from typing_extensions import override

from surgery.operators.backends import kernel
from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.masks import among, of_pairs, within, without_unseen
from surgery.operators.mixer import MixerConfig, MixerCore
from surgery.operators.softmax import all_finite, any_between, finite, flops_softmax

# Queries of a chunk at least: fewer waste fewer masked scores, more make better matrix products.
CHUNK = 64


class SlidingWindow(MixerConfig):
    """Token i attends to the tokens j with |i - j| <= window; if causal, i - window <= j <= i.

    Source: "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340), with window 4, along
    the raster order.

    Attributes:
        window: tokens on each side.
        causal: whether a token sees none that come later.
        backend: the kernel; see `surgery.operators.backends`.
    """

    kind: Literal["sliding_window"] = "sliding_window"
    window: NonNegativeInt = 4
    causal: bool = False
    backend: Literal["auto", "torch", "flash-attn", "flash-attn-4", "flex-attention"] = "auto"

    @override
    def build(self, dims: MixerDims) -> SlidingWindowMixer:
        """Return a new SlidingWindowMixer with random weights."""
        return SlidingWindowMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> SlidingWindowCore:
        """Return a SlidingWindowCore."""
        return SlidingWindowCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """Those of full attention times the share of scores kept, 9/256 for window 4 and 256 tokens."""
        span = self.window + 1 if self.causal else 2 * self.window + 1
        return flops_softmax(dims, pairs=batch * tokens * min(span, tokens))


class SlidingWindowCore(MixerCore):
    """Softmax attention within a window, under any mask."""

    takes_mask = True

    def __init__(self, config: SlidingWindow, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.window = config.window
        self.causal = config.causal
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
        """Attend within the window: (B, H, N, K). A query without any key gives zeros."""
        run = kernel(self.backend, self.config.kind, q_BHNK, masked=mask is not None)
        if run is not None:
            return run(q_BHNK, k_BHMK, v_BHMK, left=self.window, right=0 if self.causal else self.window)
        heads = q_BHNK.shape[1]
        mask_BHNM = None if mask is None else of_pairs(mask, k_BHMK.shape[2])
        k_BHMK, v_BHMK = (without_unseen(x, mask_BHNM) for x in (k_BHMK, v_BHMK))
        qkv = (rearrange(x, "b h n k -> b n (h k)") for x in (q_BHNK, k_BHMK, v_BHMK))
        y_BNE = windowed_attention(*qkv, heads=heads, window=self.window, causal=self.causal, mask=mask_BHNM)
        y_BHNK: Tensor = rearrange(y_BNE, "b n (h k) -> b h n k", h=heads)
        return y_BHNK


class SlidingWindowMixer(CoreMixer):
    """Softmax attention within a window; the scale and heads are those of the replaced attention."""


def windowed_attention(
    q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor, *, heads: int, window: int, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """Softmax attention of each token to those within the window, under a mask (B, H, N or 1, N): (B, N, E).

    The tokens are cut into chunks; each attends to itself and to the tokens in its reach, under a small mask.
    A key or value that is not finite makes NaN of the outputs whose window holds it, and of no other.
    """
    tokens = q_BNE.shape[1]
    # A short window needs no clamp, and so no condition on the number of tokens when it is compiled.
    left = window if window <= CHUNK else min(window, tokens - 1)
    right = 0 if causal else left
    if all_finite(k_BNE, v_BNE):
        return _in_chunks(q_BNE, k_BNE, v_BNE, heads, (left, right), mask)
    finite_BN1 = finite(k_BNE) & finite(v_BNE)
    k_BNE, v_BNE = (x.masked_fill(~finite_BN1, 0.0) for x in (k_BNE, v_BNE))
    y_BNE = _in_chunks(q_BNE, k_BNE, v_BNE, heads, (left, right), mask)
    i_N = torch.arange(tokens, device=q_BNE.device)
    spoilt_BN1 = any_between(~finite_BN1, (i_N - left).clamp(min=0), (i_N + right + 1).clamp(max=tokens), dim=1)
    return y_BNE.masked_fill(spoilt_BN1, torch.nan)


def _in_chunks(
    q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor, heads: int, reach: tuple[int, int], mask: Tensor | None
) -> Tensor:
    """What `windowed_attention` makes of keys and values that are finite, those to the left and right within reach."""
    batch, tokens, inner = q_BNE.shape
    left, right = reach
    size = max(CHUNK, left)
    chunks = (tokens + size - 1) // size
    spare = chunks * size - tokens
    q_XHQK = F.pad(q_BNE, (0, 0, 0, spare)).view(batch * chunks, size, heads, -1).transpose(1, 2)
    k_XHSK, v_XHSK = (
        F.pad(x, (0, 0, left, spare + right))
        .unfold(1, left + size + right, size)
        .transpose(2, 3)
        .reshape(batch * chunks, left + size + right, heads, -1)
        .transpose(1, 2)
        for x in (k_BNE, v_BNE)
    )
    i_CQ1, j_C1S = _places(chunks, size, left, right, q_BNE.device)
    mask_BHCQS = _within(i_CQ1, j_C1S, tokens, left, right)[None, None]
    if mask is not None:
        cut_BHCQS = among(mask, i_CQ1.clamp(max=tokens - 1), j_C1S.clamp(0, tokens - 1))
        mask_BHCQS = within(mask_BHCQS, cut_BHCQS)
    mask_XHQS = rearrange(mask_BHCQS.expand(batch, -1, -1, -1, -1), "b h c q s -> (b c) h q s")
    y_XHQK = F.scaled_dot_product_attention(q_XHQK, k_XHSK, v_XHSK, attn_mask=mask_XHQS)
    return y_XHQK.transpose(1, 2).reshape(batch, chunks * size, inner)[:, :tokens]


def _places(chunks: int, size: int, left: int, right: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The tokens of each chunk's queries and keys, beyond the ends too: (C, Q, 1) and (C, 1, S)."""
    first_C11 = torch.arange(chunks, device=device).view(-1, 1, 1) * size
    i_CQ1 = first_C11 + torch.arange(size, device=device).view(1, -1, 1)
    return i_CQ1, first_C11 + torch.arange(left + size + right, device=device) - left


def _within(i_CQ1: Tensor, j_C1S: Tensor, tokens: int, left: int, right: int) -> Tensor:
    """Which keys within a chunk's reach each of its queries attends to: (C, Q, S) booleans."""
    within_CQS = (j_C1S >= i_CQ1 - left) & (j_C1S <= i_CQ1 + right)
    # Queries beyond the end are thrown away, but a row without any key would bring NaN into the gradients.
    return within_CQS & ((j_C1S >= 0) & (j_C1S < tokens) | (i_CQ1 >= tokens))
