"""A multi-layer perceptron that filters its hidden layer over the grid of tokens.

Shape legend: B batch, N tokens, D features of the stream, M neurons of the hidden layer.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, field_validator
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.convolution import TokenConvolution
from surgery.operators.mlp import ACTIVATIONS, ChannelConfig, ChannelMixer, MLPDims, copy_neurons


class ConvMLP(ChannelConfig):
    """y = down(activation(filter(up(x)))) with `ratio` D neurons and the activation of the replaced MLP.

    The filter is depthwise, kernel x kernel, centred, with zeros beyond the grid, and starts as the identity. Source:
    the Mix-FFN of "SegFormer" (arXiv 2105.15203); that of "SANA" (arXiv 2410.10629) is gated as well.

    Attributes:
        kernel: tokens along each axis, odd.
        grid: rows and columns; None means a square.
    """

    kind: Literal["conv_mlp"] = "conv_mlp"
    kernel: PositiveInt = 3
    grid: tuple[PositiveInt, PositiveInt] | None = None

    @field_validator("kernel")
    @classmethod
    def _is_odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("must be odd")
        return kernel

    @override
    def build(self, dims: MLPDims) -> ConvMLPMixer:
        """Return a new ConvMLPMixer with random linear maps."""
        return ConvMLPMixer(self, dims)

    @override
    def flops(self, dims: MLPDims, batch: int, tokens: int) -> int:
        """4 N D M, if D is the same in and out, and 2 kernel^2 N M for the filter, for each of the batch."""
        return 2 * batch * tokens * self.neurons(dims) * (dims.dim + dims.out_dim + self.kernel**2)


class ConvMLPMixer(ChannelMixer):
    """See ConvMLP."""

    def __init__(self, config: ConvMLP, dims: MLPDims) -> None:
        super().__init__(config, dims)
        self.activation = dims.activation
        neurons = config.neurons(dims)
        self.up = nn.Linear(dims.dim, neurons, bias=dims.up_bias)
        self.conv = TokenConvolution(neurons, config.kernel, axes=2, grid=config.grid)
        self.conv.start_as_identity()
        self.down = nn.Linear(neurons, dims.out_dim, bias=dims.down_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map the features of each token and of those around it; RewriteError if they do not lie on the grid."""
        self.require_tokens(hidden_states)
        activated_BNM = ACTIVATIONS[self.activation](self.conv(self.up(hidden_states)))
        mapped_BND: Tensor = self.down(activated_BNM)
        return mapped_BND

    @override
    def take_neurons(self, up: nn.Linear, down: nn.Linear) -> None:
        """Copy those that contribute most; the filter is the identity."""
        copy_neurons(up, down, self.up.weight, self.up.bias, self.down)
        self.conv.start_as_identity()
