"""Sliding-window attention, in time and memory linear in the number of tokens.

Shape legend: B batch, N tokens, E features inside the mixer, H heads, K features of a head,
M chunks, Q queries of a chunk, S keys within reach of a chunk.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor
from typing_extensions import override

from surgery.operators.base import MixerConfig, MixerDims
from surgery.operators.softmax import SoftmaxMixer, flops_softmax

# Queries of a chunk at least: fewer waste fewer masked scores, more make better matrix products.
CHUNK = 64


class SlidingWindow(MixerConfig):
    """Token i attends to the tokens j with |i - j| <= window; if causal, i - window <= j <= i.

    Source: "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340), with window 4, along
    the raster order.
    """

    kind: Literal["sliding_window"] = "sliding_window"
    window: NonNegativeInt = 4
    causal: bool = False

    @override
    def build(self, dims: MixerDims) -> SlidingWindowMixer:
        """Return a new SlidingWindowMixer with random weights."""
        return SlidingWindowMixer(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """Those of full attention times the share of scores kept, 9/256 for window 4 and 256 tokens."""
        span = self.window + 1 if self.causal else 2 * self.window + 1
        return flops_softmax(dims, pairs=batch * tokens * min(span, tokens))


class SlidingWindowMixer(SoftmaxMixer):
    """Softmax attention within a window; the scale and heads are those of the replaced attention."""

    def __init__(self, config: SlidingWindow, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.window = config.window
        self.causal = config.causal

    @override
    def attend(self, q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor) -> Tensor:
        """Attend within the window: (B, N, E)."""
        return windowed_attention(q_BNE, k_BNE, v_BNE, heads=self.heads, window=self.window, causal=self.causal)


def windowed_attention(q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor, *, heads: int, window: int, causal: bool) -> Tensor:
    """Softmax attention of each token to those within the window: (B, N, E).

    The tokens are cut into chunks; each attends to itself and to the tokens in its reach, under a small mask.
    A key or value that is not finite makes NaN of the outputs whose window holds it, and of no other.
    """
    batch, tokens, inner = q_BNE.shape
    # A short window needs no clamp, and so no condition on the number of tokens when it is compiled.
    left = window if window <= CHUNK else min(window, tokens - 1)
    right = 0 if causal else left
    size = max(CHUNK, left)
    chunks = (tokens + size - 1) // size
    spare = chunks * size - tokens

    finite_BN1 = _finite(k_BNE) & _finite(v_BNE)
    q_XHQK = F.pad(q_BNE, (0, 0, 0, spare)).view(batch * chunks, size, heads, -1).transpose(1, 2)
    k_XHSK, v_XHSK = (
        F.pad(x.masked_fill(~finite_BN1, 0.0), (0, 0, left, spare + right))
        .unfold(1, left + size + right, size)
        .transpose(2, 3)
        .reshape(batch * chunks, left + size + right, heads, -1)
        .transpose(1, 2)
        for x in (k_BNE, v_BNE)
    )
    mask_MQS = _mask(tokens, chunks, size, left, right, q_BNE.device)
    mask_X1QS = mask_MQS.expand(batch, -1, -1, -1).flatten(0, 1).unsqueeze(1)
    y_XHQK = F.scaled_dot_product_attention(q_XHQK, k_XHSK, v_XHSK, attn_mask=mask_X1QS)
    y_BNE = y_XHQK.transpose(1, 2).reshape(batch, chunks * size, inner)[:, :tokens]
    return y_BNE.masked_fill(_any_within(~finite_BN1, left, right), torch.nan)


def _mask(tokens: int, chunks: int, size: int, left: int, right: int, device: torch.device) -> Tensor:
    """Which keys within a chunk's reach each of its queries attends to: (M, Q, S) booleans."""
    first_M11 = torch.arange(chunks, device=device).view(-1, 1, 1) * size
    i_MQ1 = first_M11 + torch.arange(size, device=device).view(1, -1, 1)
    j_M1S = first_M11 + torch.arange(left + size + right, device=device) - left
    within_MQS = (j_M1S >= i_MQ1 - left) & (j_M1S <= i_MQ1 + right)
    # Queries beyond the end are thrown away, but a row without any key would bring NaN into the gradients.
    return within_MQS & ((j_M1S >= 0) & (j_M1S < tokens) | (i_MQ1 >= tokens))


def _finite(x_BNE: Tensor) -> Tensor:
    """Tokens all of whose features are finite: (B, N, 1)."""
    largest_BN1: Tensor = torch.linalg.vector_norm(x_BNE.detach(), torch.inf, dim=2, keepdim=True)
    return largest_BN1 < torch.inf


def _any_within(flag_BN1: Tensor, left: int, right: int) -> Tensor:
    """Whether any token of each token's window is flagged: (B, N, 1)."""
    total = F.pad(flag_BN1.long(), (0, 0, left + 1, right)).cumsum(1)
    span = left + 1 + right
    return total[:, span:] > total[:, :-span]
