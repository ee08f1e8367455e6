"""Hyena-X: a gated short convolution in place of attention.

Source: "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340), Hyena-X with kernel 4.

Shape legend: B batch, N tokens, D features of the stream, E = heads * head_dim features inside the mixer.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.base import MixerConfig, MixerDims, SequenceMixer
from surgery.operators.convolution import TokenConvolution
from surgery.operators.projections import projections_of


class HyenaX(MixerConfig):
    """y = out_proj(q * (k * v)), with q, k, v = conv(in_proj(x)) and conv depthwise of length `kernel`.

    Published: causal along the raster order, kernel 4. If not causal, the filter is centred: see
    TokenConvolution.
    """

    kind: Literal["hyena_x"] = "hyena_x"
    kernel: PositiveInt = 4
    causal: bool = False

    @override
    def build(self, dims: MixerDims) -> HyenaXMixer:
        """Return a new HyenaXMixer with random weights."""
        return HyenaXMixer(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """Two gates: 2 N E for each of the batch."""
        return 2 * batch * tokens * dims.inner

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """The filters on 3E channels: 6 N E kernel for each of the batch."""
        return 6 * batch * tokens * dims.inner * self.kernel


class HyenaXMixer(SequenceMixer):
    """Hyena-X; a token sees `kernel` tokens."""

    def __init__(self, config: HyenaX, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.in_proj = nn.Linear(dims.dim, 3 * dims.inner, bias=dims.qkv_bias)
        self.conv = TokenConvolution(3 * dims.inner, config.kernel, causal=config.causal)
        self.out_proj = nn.Linear(dims.inner, dims.dim, bias=dims.out_bias)

    @override
    def mix(self, x_BND: Tensor, *, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return out_proj(q * (k * v)): (B, N, D)."""
        q_BNE, k_BNE, v_BNE = self.conv(self.in_proj(x_BND)).chunk(3, dim=2)
        y_BND: Tensor = self.out_proj(q_BNE * (k_BNE * v_BNE))
        return y_BND

    @override
    def take_projections(self, attention: nn.Module) -> None:
        """Copy q, k, v into in_proj and the output into out_proj; the filter starts as the identity.

        Raises:
            RewriteError: the projections do not fit.
        """
        found = projections_of(attention)
        found.qkv.copy_to(self.in_proj, "to_q, to_k, to_v")
        found.out.copy_to(self.out_proj, "to_out[0]")
        self.conv.start_as_identity()
