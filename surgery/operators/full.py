"""Full multi-head attention: the control of self-grafting (same operator, new weights).

Shape legend: B batch, N tokens, E features inside the mixer, H heads, K features of a head.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from surgery.operators.base import MixerConfig, MixerDims
from surgery.operators.softmax import SoftmaxMixer, flops_softmax


class FullAttention(MixerConfig):
    """Every token attends to every token."""

    kind: Literal["full_attention"] = "full_attention"

    @override
    def build(self, dims: MixerDims) -> FullAttentionMixer:
        """Return a new FullAttentionMixer with random weights."""
        return FullAttentionMixer(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """4 N^2 E + 3 H N^2 for each of the batch."""
        return flops_softmax(dims, pairs=batch * tokens * tokens)


class FullAttentionMixer(SoftmaxMixer):
    """Multi-head attention through `scaled_dot_product_attention`."""

    @override
    def attend(self, q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor) -> Tensor:
        """Attend to all tokens: (B, N, E)."""
        qkv = (rearrange(x, "b n (h k) -> b h n k", h=self.heads) for x in (q_BNE, k_BNE, v_BNE))
        mixed: Tensor = rearrange(F.scaled_dot_product_attention(*qkv), "b h n k -> b n (h k)")
        return mixed
