"""The linear maps of an MLP at another number of neurons, in the places of the old ones.

Shape legend: B batch, N tokens, I features in, O features out, M neurons, of which there are R as yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.config import Config
from surgery.errors import RewriteError
from surgery.operators.base import CountedByConfig, OperatorConfig
from surgery.operators.dims import Dims, Policy

Parts = tuple[PositiveInt | None, ...]
"""What features are, in their order: one for each neuron (None), or so many others."""


class LinearSizes(Config):
    """One linear map of an MLP: I, O, whether it has a bias, and the parts of its results; of the last, of its inputs.

    Where its parts are neurons, each of these has as many features as it says `beside` each other.
    """

    inputs: PositiveInt
    outputs: PositiveInt
    bias: bool
    parts: Parts
    beside: PositiveInt = 1

    def width(self, neurons: int) -> int:
        """How many features there are for so many neurons."""
        return sum(neurons * self.beside if part is None else part for part in self.parts)

    def features(self, neurons: int, chosen: Tensor, others: bool = True) -> Tensor:
        """Where the features of the `chosen` ones of so many `neurons` stand, and all others."""
        found, start = [], 0
        for part in self.parts:
            if part is None:
                found += [start + chosen * self.beside + number for number in range(self.beside)]
            elif others:
                found.append(torch.arange(start, start + part, device=chosen.device))
            start += neurons * self.beside if part is None else part
        return torch.cat(found)


class HiddenDims(Dims):
    """The linear maps of an MLP: those into the hidden layer and the one out of it.

    Attributes:
        neurons: R.
        linears: their sizes, the one out of the hidden layer last.
        index: which of them is replaced.
        alike: whether the same is done to all neurons. If not, as where only some are rectified, each keeps its place.
    """

    kind: Literal["hidden"] = "hidden"
    neurons: PositiveInt
    linears: tuple[LinearSizes, ...]
    index: int
    alike: bool = True

    @property
    def own(self) -> LinearSizes:
        """Sizes of the one that is replaced."""
        return self.linears[self.index]

    @property
    def is_last(self) -> bool:
        """Whether that reads the neurons."""
        return self.index == len(self.linears) - 1


class HiddenNeurons(OperatorConfig):
    """A hidden layer of M neurons, of an MLP that stays as it is otherwise: its activation, gates and names.

    It is built as one of the MLP's linear maps at a time, which follow the ratios of "Exploring Diffusion Transformer
    Designs via Grafting" (arXiv 2506.05340) with the weights of "Net2Net" (arXiv 1511.05641): a wider layer computes the
    same function, a narrower one keeps the neurons that contribute most, or the first ones where these are not treated
    alike.
    """

    kind: Literal["hidden_layer"] = "hidden_layer"
    neurons: PositiveInt

    @override
    def build(self, dims: HiddenDims) -> HiddenLinearMap:
        """Return a new HiddenLinearMap with random weights."""
        return HiddenLinearMap(self, dims)

    @override
    def flops(self, dims: HiddenDims, batch: int, tokens: int) -> int:
        """2 N I O for each of the batch, with M neurons in I or O."""
        own, changed = dims.own, dims.own.width(self.neurons)
        return 2 * batch * tokens * changed * (own.outputs if dims.is_last else own.inputs)


class HiddenLinearMap(CountedByConfig, nn.Linear):
    """A linear map into a hidden layer or out of it."""

    config: HiddenNeurons
    dims: HiddenDims

    def __init__(self, config: HiddenNeurons, dims: HiddenDims) -> None:
        own, changed = dims.own, dims.own.width(config.neurons)
        inputs, outputs = (changed, own.outputs) if dims.is_last else (own.inputs, changed)
        super().__init__(inputs, outputs, bias=own.bias)
        self.config = config
        self.dims = dims

    def inherit(self, *linears: nn.Linear, policy: Policy) -> None:
        """Take over the weights of the neurons that stay, in place.

        Args:
            linears: all of the MLP, the one out of the hidden layer last; they are only read.
            policy: "random" keeps the fresh weights. "projections" takes the neurons that contribute most, as many as
                there are; new ones come after them and start without effect. "exact" does so only where there are as many
                neurons or more.

        Raises:
            RewriteError: "exact" is asked of fewer neurons.
        """
        if policy == "random":
            return
        if policy == "exact" and self.config.neurons < self.dims.neurons:
            raise RewriteError(
                f"{self.config.neurons} neurons cannot keep the function of {self.dims.neurons}; use 'projections'"
            )
        old, own = linears[self.dims.index], self.dims.own
        kept = self._kept(linears)
        taken = own.features(self.dims.neurons, kept)
        places = own.features(self.config.neurons, torch.arange(len(kept), device=kept.device))
        with torch.no_grad():
            if self.dims.is_last:
                self.weight.zero_()
                self.weight[:, places] = old.weight[:, taken]
            else:
                self.weight[places] = old.weight[taken]
            if self.bias is not None:
                self._take_bias(old.bias, taken, places)

    def _kept(self, linears: Sequence[nn.Linear]) -> Tensor:
        """Which neurons stay, in order."""
        contributed = contributions(linears, self.dims)
        if not self.dims.alike:
            return torch.arange(self.dims.neurons, device=contributed.device)[: self.config.neurons]
        return contributed.argsort(descending=True, stable=True)[: self.config.neurons].sort().values

    def _take_bias(self, old: Tensor, taken: Tensor, places: Tensor) -> None:
        if self.dims.is_last:
            self.bias.copy_(old)
        else:
            self.bias[places] = old[taken]


def contributions(linears: Sequence[nn.Linear], dims: HiddenDims) -> Tensor:
    """How much each neuron can contribute to the output: the product of the norms of its weights and biases: (R,)."""
    neurons = torch.arange(dims.neurons, device=linears[0].weight.device)
    total = torch.ones(dims.neurons, device=neurons.device)
    for linear, sizes in zip(linears, dims.linears, strict=True):
        is_last = linear is linears[-1]
        squares = linear.weight.detach().float().square().sum(0 if is_last else 1)
        if linear.bias is not None and not is_last:
            squares = squares + linear.bias.detach().float().square()
        places = sizes.features(dims.neurons, neurons, others=False)
        total = total * squares[places].view(-1, dims.neurons).sqrt().prod(0)
    return total
