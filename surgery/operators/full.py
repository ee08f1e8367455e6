"""Full multi-head attention: the control of self-grafting (same operator, new weights).

Shape legend: B batch, H heads, N queries, M keys, K features of a head.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.mixer import MixerConfig, MixerCore
from surgery.operators.softmax import flops_softmax


class FullAttention(MixerConfig):
    """Every token attends to every token."""

    kind: Literal["full_attention"] = "full_attention"

    @override
    def build(self, dims: MixerDims) -> FullAttentionMixer:
        """Return a new FullAttentionMixer with random weights."""
        return FullAttentionMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> FullAttentionCore:
        """Return a FullAttentionCore."""
        return FullAttentionCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """4 N^2 E + 3 H N^2 for each of the batch."""
        return flops_softmax(dims, pairs=batch * tokens * tokens)


class FullAttentionCore(MixerCore):
    """`scaled_dot_product_attention` itself, with any mask that it takes."""

    mixes_one_stream = False
    takes_mask = True

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
        """Attend to all keys: (B, H, N, K)."""
        return F.scaled_dot_product_attention(q_BHNK, k_BHMK, v_BHMK, attn_mask=mask)

    @override
    def why_inexact(self) -> str | None:
        """Never: it is the old one."""
        return None


class FullAttentionMixer(CoreMixer):
    """Multi-head attention; with the projections of a plain attention it computes the same."""

    @override
    def why_inexact(self, attention: nn.Module) -> str | None:
        """Never: the operator is the old one."""
        return None
