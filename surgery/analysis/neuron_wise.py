"""Whether all between the linear maps of a hidden layer treats each neuron by itself: tried with random numbers.

Only then can neurons be added or taken away: a factor that is computed from their number would change for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from surgery.analysis.hidden_layer import HiddenLayer
from surgery.analysis.random_twin import random_twin
from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import name_of, shape_of, tensors
from surgery.recording.paths import child_path

SMALL = (2, 3, 4, 5)
"""Samples and tokens that are tried."""

CHANGING = {"weight", "bias", "in_features", "out_features"}
"""Attributes of a linear map that depend on the number of neurons."""

ModuleAt = Callable[[str], nn.Module]


def why_not_neuron_wise(flow: Flow, layer: HiddenLayer, neurons: int, module_at: ModuleAt) -> str | None:
    """Why `layer` cannot have `neurons` neurons, those that stay computing what they did; None if it can.

    Args:
        flow: of the model.
        layer: what was found in it.
        neurons: how many it shall have.
        module_at: the module at a path, only its code and sizes being used.
    """
    read = _reads_of(flow, layer)
    if read is not None:
        return read
    stay, most = min(neurons, layer.neurons), max(neurons, layer.neurons)
    try:
        before, after = (_Trial(flow, layer, count, most, module_at).result() for count in (layer.neurons, neurons))
    except Exception as error:  # whatever these nodes do at another width, they cannot have it
        return f"what is done to its neurons fails for {neurons} of them: {(str(error) or repr(error)).splitlines()[0]}"
    old, new = _kept(before, layer, layer.neurons, stay), _kept(after, layer, neurons, stay)
    same = old.shape == new.shape and torch.allclose(old, new, rtol=0, atol=1e-9)
    return None if same else f"what is done to a neuron depends on the others: with {neurons} of them it changes"


def _reads_of(flow: Flow, layer: HiddenLayer) -> str | None:
    """The attribute of a linear map that a forward reads, as what it computes with it is not followed."""
    changing = {child_path(each.scope, each.node) for each in (*layer.ups, layer.down)}
    for path, scope in flow.scopes.items():
        for below, name, _ in scope.recordings[0].state if any(_holds(path, each) for each in changing) else ():
            if name in CHANGING and ".".join((*filter(None, [path]), *below)) in changing:
                return f"{path or 'the model'} reads {name} of {'.'.join(below)}, which changes with its neurons"
    return None


def _holds(path: str, inner: str) -> bool:
    return not path or inner.startswith(f"{path}.")


class _Trial:
    """What the linear map out of the hidden layer reads, if those into it give random numbers.

    The first neurons have the same numbers, however many of the `most` there are.
    """

    def __init__(self, flow: Flow, layer: HiddenLayer, neurons: int, most: int, module_at: ModuleAt) -> None:
        self._flow, self._layer, self._module_at = flow, layer, module_at
        self._prefix = shape_of(layer.ups[0].node)[:-1]
        self._known: dict[ScopedNode, Any] = {}
        for number, up in enumerate(layer.ups):
            parts = [
                self._random((*self._prefix, part or most), seed)[..., : part or neurons]
                for seed, part in enumerate(up.parts, 100 * (number + 1))
            ]
            self._known[up.scope, up.node] = torch.cat(parts, -1)

    def result(self) -> Tensor:
        down = self._layer.down
        found: Tensor = self._value(self._flow.above((down.scope, down.node))[0])
        return found

    def _random(self, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        """Numbers of this shape, but of few samples and tokens."""
        few = [new if size == old != 1 else size for size, old, new in zip(shape, self._prefix, SMALL, strict=False)]
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*few, *shape[len(few) :], dtype=torch.float64, device="cpu", generator=generator)

    def _value(self, place: ScopedNode) -> Any:
        if place not in self._known:
            is_outside = isinstance(place[1].meta.get("val"), Tensor) and place not in self._layer.between
            self._known[place] = self._outside(place[1]) if is_outside else self._computed(place)
        return self._known[place]

    def _outside(self, node: fx.Node) -> Tensor:
        """What is computed elsewhere: any numbers of its kind."""
        value: Tensor = node.meta["val"]
        drawn = self._random(tuple(value.shape))
        return drawn if value.is_floating_point() else (drawn > 0).to(value.dtype)

    def _computed(self, place: ScopedNode) -> Any:
        path, node = place
        if node.op == "placeholder" or self._flow.entered(place) is not None:
            above = self._flow.above(place)
            return self._value(above[0]) if len(above) == 1 and tensors(node) else node.meta["val"]
        if node.op in ("get_attr", "output"):
            return node.meta["val"]
        if any(name_of(user) == "setitem" and user.args[0] is node for user in node.users):
            raise TypeError(f"parts of {node} are written")
        args: Any = fx.node.map_arg(node.args, lambda n: self._value((path, n)))
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: self._value((path, n)))
        if node.op == "call_module":
            return random_twin(self._module_at(child_path(path, node)))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _kept(features: Tensor, layer: HiddenLayer, neurons: int, stay: int) -> Tensor:
    """Of the features that the map out of the layer reads, all but the neurons after the first `stay`."""
    parts = layer.down.parts
    pieces = torch.split(features, [part or neurons for part in parts], -1)
    return torch.cat([x if part else x[..., :stay] for x, part in zip(pieces, parts, strict=True)], -1)
