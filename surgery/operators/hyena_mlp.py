"""Hyena-X where an MLP stood: gates in place of an activation.

Source: "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340), with ratio 2 and kernel 4.

Shape legend: B batch, N tokens, D features of the stream, M = ratio * D features inside the mixer.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.convolution import FilterBackend, TokenConvolution
from surgery.operators.mlp import ChannelConfig, ChannelMixer, MLPDims, copy_neurons


class HyenaXMLP(ChannelConfig):
    """y = down(q * (k * v)) with q, k, v = f(up(x)), f a depthwise convolution along the raster order.

    Published: causal. If not causal, the filter is centred: see TokenConvolution. The published code takes the tokens
    for the channels of f, which ties it to one resolution (and f has 27 times fewer weights at 256 tokens); here, as in
    HyenaX, every feature has its filter.
    """

    kind: Literal["hyena_x_mlp"] = "hyena_x_mlp"
    ratio: PositiveFloat = 2.0
    kernel: PositiveInt = 4
    causal: bool = False
    backend: FilterBackend = "auto"

    @override
    def build(self, dims: MLPDims) -> HyenaXMLPMixer:
        """Return a new HyenaXMLPMixer with random weights."""
        return HyenaXMLPMixer(self, dims)

    @override
    def flops(self, dims: MLPDims, batch: int, tokens: int) -> int:
        """Those of mixing and, for the filters on 3M features, 6 N M kernel for each of the batch."""
        filters = 6 * batch * tokens * self.neurons(dims) * self.kernel
        return self.flops_mixing(dims, batch, tokens) + filters

    @override
    def flops_mixing(self, dims: MLPDims, batch: int, tokens: int) -> int:
        """Without the filters: 8 N D M, if D is the same in and out, and 2 N M for both gates, for each of the batch."""
        return batch * tokens * self.neurons(dims) * (6 * dims.dim + 2 * dims.out_dim + 2)


class HyenaXMLPMixer(ChannelMixer):
    """See HyenaXMLP; a token sees `kernel` tokens."""

    def __init__(self, config: HyenaXMLP, dims: MLPDims) -> None:
        super().__init__(config, dims)
        neurons = config.neurons(dims)
        self.up = nn.Linear(dims.dim, 3 * neurons, bias=dims.up_bias)
        self.conv = TokenConvolution(3 * neurons, config.kernel, causal=config.causal, backend=config.backend)
        self.down = nn.Linear(neurons, dims.out_dim, bias=dims.down_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map the features of each token and of those within the kernel."""
        self.require_tokens(hidden_states)
        q_BNM, k_BNM, v_BNM = self.conv(self.up(hidden_states)).chunk(3, dim=2)
        mapped_BND: Tensor = self.down(q_BNM * (k_BNM * v_BNM))
        return mapped_BND

    @override
    def why_inexact(self, up: nn.Linear) -> str | None:
        """It has gates in place of the activation, always."""
        return "hyena_x_mlp has gates in place of an activation"

    @override
    def take_neurons(self, up: nn.Linear, down: nn.Linear) -> None:
        """Make those that contribute most v; q and k keep their fresh weights, and the filter is the identity."""
        v_MD = self.up.weight.chunk(3)[2]
        bias_M = None if self.up.bias is None else self.up.bias.chunk(3)[2]
        copy_neurons(up, down, v_MD, bias_M, self.down)
        self.conv.start_as_identity()
