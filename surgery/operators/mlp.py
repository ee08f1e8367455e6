"""The multi-layer perceptron of a block, at any expansion ratio.

Shape legend: B batch, N tokens, D features of the stream, M neurons of the hidden layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.config import Config
from surgery.errors import RewriteError
from surgery.operators.base import OperatorConfig, Policy

Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
}


class MLPDims(Config):
    """What is found at the replaced MLP: D in and out, its biases and its activation."""

    dim: PositiveInt
    out_dim: PositiveInt
    up_bias: bool
    down_bias: bool
    activation: Activation


class MLP(OperatorConfig):
    """y = down(activation(up(x))) with `ratio` D neurons, and the replaced MLP's activation unless one is named.

    Source: the expansion ratios of "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340); weights
    taken over as in "Net2Net" (arXiv 1511.05641): a wider MLP computes the same function, a narrower one keeps the
    neurons that contribute most.
    """

    kind: Literal["mlp"] = "mlp"
    ratio: PositiveFloat
    activation: Activation | None = None

    def neurons(self, dims: MLPDims) -> int:
        """M, the width of the hidden layer."""
        return max(1, round(self.ratio * dims.dim))

    @override
    def build(self, dims: MLPDims) -> MLPMixer:
        """Return a new MLPMixer with random weights."""
        return MLPMixer(self, dims)

    @override
    def flops(self, dims: MLPDims, batch: int, tokens: int) -> int:
        """4 N D M for each of the batch, if D is the same in and out."""
        return 2 * batch * tokens * (dims.dim + dims.out_dim) * self.neurons(dims)

    @override
    def flops_mixing(self, dims: MLPDims, batch: int, tokens: int) -> int:
        """All of them: the features are mixed by the two linear maps."""
        return self.flops(dims, batch, tokens)


class MLPMixer(nn.Module):
    """A two-layer perceptron: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: MLP, dims: MLPDims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims
        neurons = config.neurons(dims)
        self.up = nn.Linear(dims.dim, neurons, bias=dims.up_bias)
        self.down = nn.Linear(neurons, dims.out_dim, bias=dims.down_bias)
        self.activation = config.activation or dims.activation

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map the features of each token."""
        activated_BNM = ACTIVATIONS[self.activation](self.up(hidden_states))
        mapped_BND: Tensor = self.down(activated_BNM)
        return mapped_BND

    def flops(self, batch: int, tokens: int) -> int:
        """FLOPs of one forward pass over (batch, tokens, D)."""
        return self.config.flops(self.dims, batch, tokens)

    def flops_mixing(self, batch: int, tokens: int) -> int:
        """As `flops`."""
        return self.config.flops_mixing(self.dims, batch, tokens)

    def inherit(self, mlp: nn.Module, policy: Policy) -> None:
        """Take over neurons of the replaced MLP, in place.

        Args:
            mlp: the module that this one replaces; it is only read.
            policy: "random" keeps the fresh weights. "projections" takes the neurons that contribute most, as many as
                there are; those that are new come after them and start without effect, so that a wider MLP computes
                what the old one did, up to the order of sums. "exact" does so where there are as many neurons or more,
                with the same activation.

        Raises:
            RewriteError: the old MLP is not two linear maps, the policy is unknown, or "exact" is asked of an MLP that
                would compute something else.
        """
        if policy not in get_args(Policy):
            raise RewriteError(f"MLP: unknown inheritance policy {policy!r}; use one of {get_args(Policy)}")
        if policy == "random":
            return
        up, down = linears_of(mlp)
        if policy == "exact" and (reason := self._why_inexact(up)):
            raise RewriteError(f"MLP cannot keep the function of the old one: {reason}; use 'projections'")
        self._take_neurons(up, down)

    def _why_inexact(self, up: nn.Linear) -> str | None:
        if self.activation != self.dims.activation:
            return f"its activation is {self.activation}, the old one's {self.dims.activation}"
        if self.up.out_features < up.out_features:
            return f"it has {self.up.out_features} neurons, the old one {up.out_features}"
        return None

    def _take_neurons(self, up: nn.Linear, down: nn.Linear) -> None:
        kept = min(self.up.out_features, up.out_features)
        order = contributions(up, down).argsort(descending=True, stable=True)[:kept].sort().values
        with torch.no_grad():
            self.up.weight[:kept] = up.weight[order]
            self.down.weight[:, :kept] = down.weight[:, order]
            self.down.weight[:, kept:] = 0
            if up.bias is not None:
                self.up.bias[:kept] = up.bias[order]
            if down.bias is not None:
                self.down.bias.copy_(down.bias)


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
    if len(found) != 2 or any(type(linear) is not nn.Linear for linear in found):
        kinds = ", ".join(type(linear).__name__ for linear in found) or "none"
        raise RewriteError(f"{name} has not two plain linear maps but {kinds}")
    up, down = found
    if up.out_features != down.in_features:
        raise RewriteError(f"{name} maps to {up.out_features} features and back from {down.in_features}: it is gated")
    return up, down
