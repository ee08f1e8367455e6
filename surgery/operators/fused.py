"""Several linear maps of one input as one, and one as several: exact both ways.

Shape legend: B batch, N tokens, I features in, O features out of all maps together.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.base import BuiltByConfig, CountedByConfig, OperatorConfig
from surgery.operators.dims import Dims, Policy
from surgery.recording.stock import is_stock


class LinearDims(Dims):
    """Widths of linear maps that read the same input: I, what each gives, and whether they have biases."""

    kind: Literal["linear"] = "linear"
    inputs: PositiveInt
    outputs: tuple[PositiveInt, ...] = Field(min_length=1)
    bias: bool


class FusedLinear(OperatorConfig):
    """All maps in one matrix product: (B, N, I) -> (B, N, O), a plain linear map to adapters and quantisers.

    Attributes:
        names: where the maps stood in their scope, for when the fused one is split again.
    """

    kind: Literal["fused_linear"] = "fused_linear"
    names: tuple[str, ...]

    @override
    def build(self, dims: LinearDims) -> FusedLinearMap:
        """Return a new FusedLinearMap with random weights."""
        return FusedLinearMap(self, dims)

    @override
    def flops(self, dims: LinearDims, batch: int, tokens: int) -> int:
        """2 N I O for each of the batch."""
        return 2 * batch * tokens * dims.inputs * sum(dims.outputs)


class Pieces(OperatorConfig):
    """Hands out the result of a fused map in its pieces: (B, N, O) -> a tuple of (B, N, outputs[i])."""

    kind: Literal["pieces"] = "pieces"

    @override
    def build(self, dims: LinearDims) -> FeaturePieces:
        """Return a new FeaturePieces, which has no weights."""
        return FeaturePieces(self, dims)

    @override
    def flops(self, dims: LinearDims, batch: int, tokens: int) -> int:
        """None: nothing is computed."""
        return 0


class LinearPart(OperatorConfig):
    """One of the maps alone: (B, N, I) -> (B, N, outputs[index])."""

    kind: Literal["linear_part"] = "linear_part"
    index: NonNegativeInt

    @override
    def build(self, dims: LinearDims) -> LinearPartMap:
        """Return a new LinearPartMap with random weights."""
        return LinearPartMap(self, dims)

    @override
    def flops(self, dims: LinearDims, batch: int, tokens: int) -> int:
        """2 N I outputs[index] for each of the batch."""
        return 2 * batch * tokens * dims.inputs * dims.outputs[self.index]


class FusedLinearMap(CountedByConfig, nn.Linear):
    """A linear map whose rows are those of several, one below the other."""

    config: FusedLinear
    dims: LinearDims

    def __init__(self, config: FusedLinear, dims: LinearDims) -> None:
        super().__init__(dims.inputs, sum(dims.outputs), bias=dims.bias)
        self.config = config
        self.dims = dims

    def inherit(self, *maps: nn.Linear, policy: Policy) -> None:
        """Take over the weights of the linear maps, one below the other; "random" keeps the fresh ones."""
        if policy == "random":
            return
        _require_plain(maps)
        with torch.no_grad():
            self.weight.copy_(torch.cat([each.weight for each in maps]))
            if self.bias is not None:
                self.bias.copy_(torch.cat([each.bias for each in maps]))


class FeaturePieces(BuiltByConfig):
    """Takes features apart; it has no weights."""

    config: Pieces
    dims: LinearDims

    @override
    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """Map (B, N, O) to a tuple of (B, N, outputs[i]).

        Each is a view by itself, as autograd lets none of those be changed in place that `torch.split` gives.
        """
        ends = itertools.accumulate(self.dims.outputs)
        return tuple(input[..., end - width : end] for width, end in zip(self.dims.outputs, ends, strict=True))


class LinearPartMap(CountedByConfig, nn.Linear):
    """Some rows of a linear map."""

    config: LinearPart
    dims: LinearDims

    def __init__(self, config: LinearPart, dims: LinearDims) -> None:
        super().__init__(dims.inputs, dims.outputs[config.index], bias=dims.bias)
        self.config = config
        self.dims = dims

    def inherit(self, whole: nn.Linear, policy: Policy) -> None:
        """Take over its rows of the linear map `whole`; "random" keeps the fresh ones."""
        if policy == "random":
            return
        _require_plain([whole])
        start = sum(self.dims.outputs[: self.config.index])
        rows = slice(start, start + self.out_features)
        with torch.no_grad():
            self.weight.copy_(whole.weight[rows])
            if self.bias is not None:
                self.bias.copy_(whole.bias[rows])


def _require_plain(maps: tuple[nn.Linear, ...] | list[nn.Linear]) -> None:
    # An adapter (LoRA) or a quantised layer computes something else than its weight says.
    own = (FusedLinearMap, LinearPartMap)
    odd = next((each for each in maps if type(each) not in own and not is_stock(each, nn.Linear)), None)
    if odd is not None:
        raise RewriteError(f"a {type(odd).__name__} is no plain nn.Linear; merge adapters or dequantise first")
