"""Whether all between the linear maps of a hidden layer treats each neuron by itself: tried with random numbers.

Only then can neurons be added or taken away: a factor that is computed from their number would change for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgery.analysis.hidden_layer import HiddenLayer
from surgery.analysis.numbers import Number
from surgery.analysis.random_twin import random_twin
from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import shape_of
from surgery.analysis.small_run import SmallRun, evaluated, is_tensor, is_written
from surgery.errors import AnalysisError, first_line
from surgery.recording.paths import child_path, is_inside

CHANGING = {"weight", "bias", "in_features", "out_features"}
"""Attributes of a linear map that depend on the number of neurons."""

ModuleAt = Callable[[str], nn.Module]


def require_neuron_wise(
    flow: Flow, layer: HiddenLayer, neurons: int, numbers: Iterable[Number], module_at: ModuleAt
) -> None:
    """Raise AnalysisError if `layer` cannot have `neurons` neurons, those that stay computing what they did.

    Args:
        flow: of the model.
        layer: what was found in it.
        neurons: how many it shall have.
        numbers: those of its forward that change with them.
        module_at: the module at a path, only its code and sizes being used.
    """
    _require_unread(flow, layer)
    stay, most = min(neurons, layer.neurons), max(neurons, layer.neurons)
    try:
        before = _Numeric(flow, layer, layer.neurons, most, (), module_at).result()
        after = _Numeric(flow, layer, neurons, most, numbers, module_at).result()
    except Exception as error:  # whatever these nodes do at another width, they cannot have it
        raise AnalysisError(f"what is done to its neurons fails for {neurons} of them: {first_line(error)}") from error
    old, new = _kept(before, layer, layer.neurons, stay), _kept(after, layer, neurons, stay)
    if old.shape != new.shape or not torch.allclose(old, new, rtol=0, atol=1e-9):
        raise AnalysisError(f"what is done to a neuron depends on the others: with {neurons} of them it changes")


def are_alike(flow: Flow, layer: HiddenLayer, module_at: ModuleAt) -> bool:
    """Whether the same is done to all neurons of `layer`: if each is given another's numbers, it has its results."""
    straight, turned = (
        _Numeric(flow, layer, layer.neurons, layer.neurons, (), module_at, turn).result() for turn in (0, 1)
    )
    parts = layer.down.parts
    pieces = (torch.split(features, [part or layer.neurons for part in parts], -1) for features in (straight, turned))
    return all(
        torch.allclose(old if part else old.roll(1, -1), new, rtol=0, atol=1e-9)
        for part, old, new in zip(parts, *pieces, strict=True)
    )


def _require_unread(flow: Flow, layer: HiddenLayer) -> None:
    """Raise AnalysisError if a forward reads an attribute of a linear map: what it computes with it is not followed."""
    changing = {child_path(each.scope, each.node) for each in (*layer.ups, layer.down)}
    for path, scope in flow.scopes.items():
        for below, name, _ in scope.recordings[0].state if any(is_inside(each, path) for each in changing) else ():
            if name in CHANGING and ".".join((*filter(None, [path]), *below)) in changing:
                where = path or "the model"
                raise AnalysisError(f"{where} reads {name} of {'.'.join(below)}, which changes with its neurons")


class _Numeric(SmallRun):
    """What the linear map out of the hidden layer reads, if those into it give random numbers.

    The first neurons have the same numbers, however many of the `most` there are; each has those of the one that comes
    `turn` places before.
    """

    def __init__(
        self,
        flow: Flow,
        layer: HiddenLayer,
        neurons: int,
        most: int,
        numbers: Iterable[Number],
        module_at: ModuleAt,
        turn: int = 0,
    ) -> None:
        super().__init__(flow, shape_of(layer.ups[0].node)[:-1], numbers)
        self._layer, self._module_at = layer, module_at
        for number, up in enumerate(layer.ups):
            parts = [
                self._random((*self._prefix, part or most * up.beside), seed)[..., : part or neurons * up.beside]
                for seed, part in enumerate(up.parts, 100 * (number + 1))
            ]
            parts = [x if part else x.roll(turn * up.beside, -1) for x, part in zip(parts, up.parts, strict=True)]
            self.known[up.scope, up.node] = torch.cat(parts, -1)

    def result(self) -> Tensor:
        down = self._layer.down
        found: Tensor = self.value(self._flow.above((down.scope, down.node))[0])
        return found

    def given(self, place: ScopedNode) -> Tensor | None:
        """What is computed elsewhere: any numbers of its kind."""
        if not is_tensor(place[1]) or place in self._layer.between:
            return None
        value: Tensor = place[1].meta["val"]
        drawn = self._random(tuple(value.shape))
        return drawn if value.is_floating_point() else (drawn > 0).to(value.dtype)

    def _random(self, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*self.few(shape), dtype=torch.float64, device="cpu", generator=generator)

    def call(self, place: ScopedNode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the code of the node computes, of modules that of a twin with random weights."""
        path, node = place
        if is_written(node):
            raise TypeError(f"parts of {node} are written")
        if node.op == "call_module":
            return random_twin(self._module_at(child_path(path, node)))(*args, **kwargs)
        return evaluated(node, args, kwargs)


def _kept(features: Tensor, layer: HiddenLayer, neurons: int, stay: int) -> Tensor:
    """Of the features that the map out of the layer reads, all but the neurons after the first `stay`."""
    parts = layer.down.parts
    pieces = torch.split(features, [part or neurons for part in parts], -1)
    return torch.cat([x if part else x[..., :stay] for x, part in zip(pieces, parts, strict=True)], -1)
