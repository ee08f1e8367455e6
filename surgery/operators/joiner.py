"""Joiners: two sequential blocks become a parallel pair, and their two outputs one stream again.

Both blocks, each with its own residual connection, get the input x; they return a and b, and joiner(x, a, b) goes on.

Shape legend: … any leading dimensions, D features of the stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.base import BuiltByConfig, OperatorConfig
from surgery.operators.dims import Dims


class JoinerDims(Dims):
    """D, the width of the stream."""

    kind: Literal["joiner"] = "joiner"
    dim: PositiveInt


class JoinerConfig(OperatorConfig):
    """Base of the configs of joiners."""

    @abstractmethod
    @override
    def build(self, dims: JoinerDims) -> Joiner:
        """Return a new joiner with its first weights, on the default device and in the default dtype."""


class ConcatProject(JoinerConfig):
    """One linear map of both outputs: project(concat(a, b)), 2D -> D with bias.

    Source: "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340), where 14 of them join the 28
    layers of DiT-XL/2 in pairs. It does not see x, so it starts as the average (a + b) / 2, not as the sum of the
    blocks' changes; or with random weights.
    """

    kind: Literal["concat_project"] = "concat_project"
    start: Literal["average", "random"] = "average"

    @override
    def build(self, dims: JoinerDims) -> ConcatProjectJoiner:
        """Return a new ConcatProjectJoiner."""
        return ConcatProjectJoiner(self, dims)

    @override
    def flops(self, dims: JoinerDims, batch: int, tokens: int) -> int:
        """4 N D^2 for each of the batch."""
        return 4 * batch * tokens * dims.dim**2


class SumDeltas(JoinerConfig):
    """The stream with the changes of both blocks, a + b - x; no parameters."""

    kind: Literal["sum_deltas"] = "sum_deltas"

    @override
    def build(self, dims: JoinerDims) -> SumDeltasJoiner:
        """Return a new SumDeltasJoiner."""
        return SumDeltasJoiner(self, dims)

    @override
    def flops(self, dims: JoinerDims, batch: int, tokens: int) -> int:
        """2 N D for each of the batch."""
        return 2 * batch * tokens * dims.dim


class WeightedSum(JoinerConfig):
    """The changes of both blocks under learned weights, x + w_a (a - x) + w_b (b - x); starts as SumDeltas."""

    kind: Literal["weighted_sum"] = "weighted_sum"

    @override
    def build(self, dims: JoinerDims) -> WeightedSumJoiner:
        """Return a new WeightedSumJoiner."""
        return WeightedSumJoiner(self, dims)

    @override
    def flops(self, dims: JoinerDims, batch: int, tokens: int) -> int:
        """6 N D for each of the batch."""
        return 6 * batch * tokens * dims.dim


class ZeroJoin(JoinerConfig):
    """The first block, and a linear map of the second one's change: a + project(b - x); starts as a alone."""

    kind: Literal["zero_join"] = "zero_join"

    @override
    def build(self, dims: JoinerDims) -> ZeroJoinJoiner:
        """Return a new ZeroJoinJoiner."""
        return ZeroJoinJoiner(self, dims)

    @override
    def flops(self, dims: JoinerDims, batch: int, tokens: int) -> int:
        """2 N D^2 + 2 N D for each of the batch."""
        return 2 * batch * tokens * dims.dim * (dims.dim + 1)


class Joiner(BuiltByConfig, ABC):
    """Makes one stream of a block pair's input x and its outputs a and b, each (…, D)."""

    config: JoinerConfig
    dims: JoinerDims

    @abstractmethod
    def join(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The joined stream (…, D)."""

    def forward(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return the joined stream (…, D).

        Raises:
            RewriteError: x, a and b are not all of one shape (…, D).
        """
        if x.shape != a.shape or x.shape != b.shape or x.shape[-1:] != (self.dims.dim,):
            raise RewriteError(
                f"{type(self).__name__}: x, a and b have shapes {tuple(x.shape)}, {tuple(a.shape)} and "
                f"{tuple(b.shape)}, need one shape (..., {self.dims.dim}); join blocks that keep the stream's shape"
            )
        return self.join(x, a, b)


class ConcatProjectJoiner(Joiner):
    """See ConcatProject; the first D columns of `project.weight` are for a."""

    def __init__(self, config: ConcatProject, dims: JoinerDims) -> None:
        super().__init__(config, dims)
        self.project = nn.Linear(2 * dims.dim, dims.dim)
        if config.start == "average":
            with torch.no_grad():
                self.project.weight.copy_(0.5 * torch.eye(dims.dim).repeat(1, 2))
            nn.init.zeros_(self.project.bias)

    @override
    def join(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """project(concat(a, b)): (…, D)."""
        joined: Tensor = self.project(torch.cat([a, b], dim=-1))
        return joined


class SumDeltasJoiner(Joiner):
    """See SumDeltas."""

    @override
    def join(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """a + b - x: (…, D)."""
        return a + (b - x)


class WeightedSumJoiner(Joiner):
    """See WeightedSum; `weight_a` and `weight_b` have one weight for each feature."""

    def __init__(self, config: WeightedSum, dims: JoinerDims) -> None:
        super().__init__(config, dims)
        self.weight_a = nn.Parameter(torch.ones(dims.dim))
        self.weight_b = nn.Parameter(torch.ones(dims.dim))

    @override
    def join(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """x + w_a (a - x) + w_b (b - x): (…, D)."""
        return x + self.weight_a * (a - x) + self.weight_b * (b - x)


class ZeroJoinJoiner(Joiner):
    """See ZeroJoin."""

    def __init__(self, config: ZeroJoin, dims: JoinerDims) -> None:
        super().__init__(config, dims)
        self.project = nn.Linear(dims.dim, dims.dim)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    @override
    def join(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """a + project(b - x): (…, D)."""
        joined: Tensor = a + self.project(b - x)
        return joined
