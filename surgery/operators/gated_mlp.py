"""Gated multi-layer perceptrons.

Shape legend: B batch, N tokens, D features of the stream, M neurons of the hidden layer.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.mlp import ACTIVATIONS, Activation, ChannelConfig, ChannelMixer, MLPDims, copy_neurons


class GatedMLP(ChannelConfig):
    """y = down(activation(gate(x)) * up(x)) with `ratio` D neurons: 2/3 of an MLP's ratio costs as much.

    Source: "GLU Variants Improve Transformer" (arXiv 2002.05202). SwiGLU takes SiLU; GEGLU takes GELU, in the
    approximation of the replaced MLP.
    """

    kind: Literal["gated_mlp"] = "gated_mlp"
    gate: Literal["swiglu", "geglu"] = "swiglu"

    def activation(self, dims: MLPDims) -> Activation:
        """That of the gate."""
        if self.gate == "swiglu":
            return "silu"
        return "gelu_tanh" if dims.activation == "gelu_tanh" else "gelu"

    @override
    def build(self, dims: MLPDims) -> GatedMLPMixer:
        """Return a new GatedMLPMixer with random weights."""
        return GatedMLPMixer(self, dims)

    @override
    def flops(self, dims: MLPDims, batch: int, tokens: int) -> int:
        """6 N D M and N M for the gate for each of the batch, if D is the same in and out."""
        return batch * tokens * self.neurons(dims) * (4 * dims.dim + 2 * dims.out_dim + 1)


class GatedMLPMixer(ChannelMixer):
    """See GatedMLP; `up` always has a bias, as it starts at one where neurons are taken over."""

    def __init__(self, config: GatedMLP, dims: MLPDims) -> None:
        super().__init__(config, dims)
        self.activation = config.activation(dims)
        neurons = config.neurons(dims)
        self.gate = nn.Linear(dims.dim, neurons, bias=dims.up_bias)
        self.up = nn.Linear(dims.dim, neurons)
        self.down = nn.Linear(neurons, dims.out_dim, bias=dims.down_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map the features of each token."""
        gate_BNM = ACTIVATIONS[self.activation](self.gate(hidden_states))
        mapped_BND: Tensor = self.down(gate_BNM * self.up(hidden_states))
        return mapped_BND

    @override
    def take_neurons(self, up: nn.Linear, down: nn.Linear) -> None:
        """Make the old neurons the gate, of ones: the old MLP, if its activation is that of the gate."""
        copy_neurons(up, down, self.gate.weight, self.gate.bias, self.down)
        nn.init.zeros_(self.up.weight)
        nn.init.ones_(self.up.bias)
