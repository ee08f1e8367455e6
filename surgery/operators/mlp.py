"""The multi-layer perceptron of a block, at any expansion ratio, and what all that can stand in its place share.

Shape legend: B batch, N tokens, D features of the stream, M neurons of the hidden layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.base import BuiltByConfig, OperatorConfig
from surgery.operators.dims import Dims, Policy
from surgery.recording.stock import is_stock

Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
}


class MLPDims(Dims):
    """What is found at the replaced MLP: D in and out, its biases and its activation."""

    kind: Literal["mlp"] = "mlp"
    dim: PositiveInt
    out_dim: PositiveInt
    up_bias: bool
    down_bias: bool
    activation: Activation


class ChannelConfig(OperatorConfig):
    """Base of the configs of what stands where an MLP stood: `ratio` D neurons."""

    ratio: PositiveFloat

    def neurons(self, dims: MLPDims) -> int:
        """M, the width of the hidden layer."""
        return max(1, round(self.ratio * dims.dim))

    @abstractmethod
    @override
    def build(self, dims: MLPDims) -> ChannelMixer:
        """Return a new mixer with random weights, on the default device and in the default dtype."""

    @override
    def flops_mixing(self, dims: MLPDims, batch: int, tokens: int) -> int:
        """All of them: the features are mixed by the linear maps."""
        return self.flops(dims, batch, tokens)


class MLP(ChannelConfig):
    """y = down(activation(up(x))) with `ratio` D neurons, and the replaced MLP's activation unless one is named.

    Source: the expansion ratios of "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340); weights
    taken over as in "Net2Net" (arXiv 1511.05641): a wider MLP computes the same function, a narrower one keeps the
    neurons that contribute most.
    """

    kind: Literal["mlp"] = "mlp"
    activation: Activation | None = None

    @override
    def build(self, dims: MLPDims) -> MLPMixer:
        """Return a new MLPMixer with random weights."""
        return MLPMixer(self, dims)

    @override
    def flops(self, dims: MLPDims, batch: int, tokens: int) -> int:
        """4 N D M for each of the batch, if D is the same in and out."""
        return 2 * batch * tokens * (dims.dim + dims.out_dim) * self.neurons(dims)


class ChannelMixer(BuiltByConfig, ABC):
    """Maps the features of tokens: (B, N, D) -> (B, N, D)."""

    config: ChannelConfig
    dims: MLPDims
    activation: Activation
    """That of the hidden layer, for those that have one."""

    @abstractmethod
    def take_neurons(self, up: nn.Linear, down: nn.Linear) -> None:
        """Copy neurons of an MLP of these two linear maps, in place."""

    def why_inexact(self, up: nn.Linear) -> str | None:
        """Why this mixer, with the neurons of an MLP, computes something else; None if it does not."""
        if self.activation != self.dims.activation:
            return f"its activation is {self.activation}, the old one's {self.dims.activation}"
        neurons = self.config.neurons(self.dims)
        return f"it has {neurons} neurons, the old one {up.out_features}" if neurons < up.out_features else None

    def inherit(self, mlp: nn.Module, policy: Policy) -> None:
        """Take over neurons of the replaced MLP, in place.

        Args:
            mlp: the module that this one replaces; it is only read.
            policy: "random" keeps the fresh weights. "projections" takes the neurons that contribute most, as many as
                there are; those that are new come after them and start without effect, so that a wider MLP computes
                what the old one did, up to the order of sums. "exact" does so where there are as many neurons or more,
                with the same activation.

        Raises:
            RewriteError: the old MLP is not two linear maps, the policy is unknown, or "exact" is asked of an operator
                that would compute something else.
        """
        name = type(self).__name__
        if policy not in get_args(Policy):
            raise RewriteError(f"{name}: unknown inheritance policy {policy!r}; use one of {get_args(Policy)}")
        if policy == "random":
            return
        up, down = linears_of(mlp)
        if policy == "exact" and (reason := self.why_inexact(up)):
            raise RewriteError(f"{name} cannot keep the function of the old MLP: {reason}; use 'projections'")
        with torch.no_grad():
            self.take_neurons(up, down)

    def require_tokens(self, hidden_states: Tensor) -> None:
        """For operators that look at other tokens: RewriteError if the input is not (B, N, D)."""
        if hidden_states.ndim != 3 or hidden_states.shape[2] != self.dims.dim:
            raise RewriteError(
                f"{type(self).__name__}: hidden_states has shape {tuple(hidden_states.shape)}, "
                f"needs (batch, tokens, {self.dims.dim}); leave this MLP as it is"
            )


class MLPMixer(ChannelMixer):
    """A two-layer perceptron."""

    def __init__(self, config: MLP, dims: MLPDims) -> None:
        super().__init__(config, dims)
        self.activation = config.activation or dims.activation
        neurons = config.neurons(dims)
        self.up = nn.Linear(dims.dim, neurons, bias=dims.up_bias)
        self.down = nn.Linear(neurons, dims.out_dim, bias=dims.down_bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map the features of each token."""
        activated_BNM = ACTIVATIONS[self.activation](self.up(hidden_states))
        mapped_BND: Tensor = self.down(activated_BNM)
        return mapped_BND

    @override
    def take_neurons(self, up: nn.Linear, down: nn.Linear) -> None:
        """Copy those that contribute most."""
        copy_neurons(up, down, self.up.weight, self.up.bias, self.down)


def copy_neurons(up: nn.Linear, down: nn.Linear, weight_MD: Tensor, bias_M: Tensor | None, new_down: nn.Linear) -> None:
    """Write the neurons that contribute most, in their order, into a new hidden layer; its others have no effect."""
    kept = min(len(weight_MD), up.out_features)
    order = contributions(up, down).argsort(descending=True, stable=True)[:kept].sort().values
    weight_MD[:kept] = up.weight[order]
    new_down.weight[:, :kept] = down.weight[:, order]
    new_down.weight[:, kept:] = 0
    if bias_M is not None and up.bias is not None:
        bias_M[:kept] = up.bias[order]
    if down.bias is not None:
        new_down.bias.copy_(down.bias)


def contributions(up: nn.Linear, down: nn.Linear) -> Tensor:
    """How much each neuron can contribute to the output: |in| |out|, the norms of its weights, bias included: (M,)."""
    entering = up.weight.float().square().sum(1)
    if up.bias is not None:
        entering = entering + up.bias.float().square()
    leaving: Tensor = torch.linalg.vector_norm(down.weight.float(), dim=0)
    return entering.sqrt() * leaving


def linears_of(mlp: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The two linear maps of an MLP, told by their widths.

    Raises:
        RewriteError: there are others, or the first has not as many outputs as the second has inputs (a gated MLP).
    """
    name = type(mlp).__name__
    found = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
    if len(found) != 2 or not all(is_stock(linear, nn.Linear) for linear in found):
        kinds = ", ".join(type(linear).__name__ for linear in found) or "none"
        raise RewriteError(f"{name} has not two plain linear maps but {kinds}")
    up, down = found
    if up.out_features != down.in_features:
        gated = f"{name} maps to {up.out_features} features and back from {down.in_features}: it is gated"
        raise RewriteError(f'{gated}; start afresh with inherit="random"')
    return up, down
