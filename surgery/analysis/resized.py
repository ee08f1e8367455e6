"""What changes in a forward with the number of neurons of its hidden layer: whole numbers among arguments of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product

import torch
from torch import Tensor

from surgery.analysis.hidden_layer import HiddenLayer
from surgery.analysis.labels import FIXED, NOTHING, LabelRun, in_order
from surgery.analysis.numbers import Number, numbers_in
from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import shape_of
from surgery.errors import AnalysisError

TRIED = 256
"""Sets of numbers that are tried at most."""
MOST = 1 << 20
"""More neurons than any MLP has; what is tried takes memory for each of them."""


def numbers_for(flow: Flow, layer: HiddenLayer, neurons: int) -> tuple[Number, ...]:
    """The numbers that `layer` needs to have `neurons` neurons; none, if its forward goes by sizes as it is.

    Whatever could be a number of features is tried; what is found is right if each neuron arrives where it did.

    Raises:
        AnalysisError: nothing that was tried is right, or they are too many.
    """
    if neurons == layer.neurons:
        return ()
    if neurons > MOST:
        raise AnalysisError(f"a hidden layer of more than {MOST:,} neurons is too large; choose a smaller ratio")
    wanted = _expected(layer, neurons)
    expected = [_labels(flow, layer, place, layer.neurons, ()) for place in layer.sides]
    for numbers in islice(_candidates(layer, neurons), TRIED):
        labels = _labels(flow, layer, flow.above(layer.down.place)[0], neurons, numbers)
        sides = [_labels(flow, layer, place, neurons, numbers) for place in layer.sides]
        if _same(labels, wanted) and all(map(_same, sides, expected)):
            return numbers
    raise AnalysisError(f"its own forward takes its neurons apart in a way that does not fit {neurons} of them")


def _candidates(layer: HiddenLayer, neurons: int) -> Iterator[tuple[Number, ...]]:
    """Sets of numbers to try: none; all that could count features; fewer."""
    yield ()
    wanted = _widths(layer, neurons)
    choices: list[list[Number | None]] = []
    for _, node in layer.cuts:
        for at, value in numbers_in(node):
            new = sorted(wanted.get(abs(value), ()), reverse=True)
            if new:
                choices.append([*(Number(node, at, each if value > 0 else -each) for each in new), None])
    for chosen in product(*choices) if choices else ():
        yield tuple(number for number in chosen if number is not None)


def _widths(layer: HiddenLayer, neurons: int) -> dict[int, set[int]]:
    """Numbers of neighbouring features, and what they become."""
    found: dict[int, set[int]] = {}
    for linear in (*layer.ups, layer.down):
        pairs = list(zip(linear.edges(layer.neurons), linear.edges(neurons), strict=True))
        pairs += [(k * layer.neurons, k * neurons) for k in range(linear.slots + 1)]
        for a, b in product(pairs, pairs):
            if a[0] > b[0] and a[0] - b[0] != a[1] - b[1]:
                found.setdefault(a[0] - b[0], set()).add(a[1] - b[1])
    return found


def _labels(
    flow: Flow, layer: HiddenLayer, place: ScopedNode, neurons: int, numbers: Sequence[Number]
) -> Tensor | None:
    """The labels of each feature at `place`, see `in_order`; None if they cannot be told."""
    run = LabelRun(flow, shape_of(layer.ups[0].node)[:-1], lambda each: layer.label(each, neurons), numbers)
    try:
        features = run.reach(place).of_features()
    except Exception:  # numbers that do not fit
        return None
    if features is None:
        return None
    return in_order(features.masked_fill((features == FIXED).any(0), NOTHING))


def _expected(layer: HiddenLayer, neurons: int) -> Tensor:
    """What the last linear map is to read."""
    slots = layer.slots
    own = torch.arange(slots)[:, None] + torch.arange(neurons) * slots
    return torch.cat([own if part is None else torch.full((slots, part), NOTHING) for part in layer.down.parts], 1)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
