"""The hidden layer of an MLP: the linear maps that make its neurons, and the one that reads them.

In between, functions may be applied to each neuron, neurons be multiplied with each other (gates), tensors be taken apart
and others be put beside them, in whatever modules that happens and however it is written: labels follow the features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from surgery.analysis.labels import FIXED, LabelRun, Labels, in_order, is_moving
from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import is_linear, shape_of, tensors
from surgery.errors import AnalysisError
from surgery.recording.paths import child_path
from surgery.recording.reach import reach

Part = int | None
"""Of the features of a tensor: those of the neurons (None), or so many others."""

OTHERS = 1 << 40
"""Labels of features that are no neurons begin here."""


@dataclass(frozen=True)
class HiddenLinear:
    """A linear map into the hidden layer or out of it.

    Attributes:
        scope: path of the scope that calls it.
        node: the call.
        parts: what its results are, of the last one what it reads.
        beside: how many features each neuron has, side by side, where the parts are neurons.
    """

    scope: str
    node: fx.Node
    parts: tuple[Part, ...]
    beside: int = 1

    @property
    def place(self) -> ScopedNode:
        """Where it is called."""
        return self.scope, self.node

    @property
    def slots(self) -> int:
        """How many features each neuron has in all."""
        return self.beside * self.parts.count(None)

    def edges(self, neurons: int) -> list[int]:
        """Where each part begins, and where the last one ends."""
        edges = [0]
        for part in self.parts:
            edges.append(edges[-1] + (part or neurons * self.beside))
        return edges


@dataclass(frozen=True)
class HiddenLayer:
    """A hidden layer.

    Attributes:
        neurons: how many it has.
        ups: the linear maps that make them: one, or several of a gated MLP.
        down: the linear map that reads them.
        between: every place on the ways from those to this.
        sides: what reads other features of those.
        seen: the paths of all scopes that were looked at.
    """

    neurons: int
    ups: tuple[HiddenLinear, ...]
    down: HiddenLinear
    between: frozenset[ScopedNode]
    sides: tuple[ScopedNode, ...] = ()
    seen: frozenset[str] = frozenset()

    def moved(self, to: Callable[[str], str]) -> HiddenLayer:
        """That of a block which is alike, whose scopes have the paths that `to` gives."""
        return HiddenLayer(
            self.neurons,
            tuple(replace(up, scope=to(up.scope)) for up in self.ups),
            replace(self.down, scope=to(self.down.scope)),
            frozenset((to(path), node) for path, node in self.between),
            tuple((to(path), node) for path, node in self.sides),
            frozenset(map(to, self.seen)),
        )

    @property
    def slots(self) -> int:
        """How many features of the linear maps each neuron is computed from."""
        return sum(up.slots for up in self.ups)

    @property
    def cuts(self) -> list[ScopedNode]:
        """What moves neurons or takes them apart, and what computes sizes for that."""
        moving = [(path, node) for path, node in self.between if is_moving(node)]
        sizes = reach(moving, lambda p: [(p[0], node) for node in p[1].all_input_nodes if not tensors(node)])
        return list(sizes)

    def label(self, place: ScopedNode, neurons: int) -> Tensor:
        """Labels of the features that the map at `place` gives, whatever the number of neurons.

        Those of the neuron n are n S, n S + 1, ... for S slots.
        """
        slot, others = 0, OTHERS
        for up in self.ups:
            labels: list[Tensor] = []
            for part in up.parts:
                if part is None:
                    own = torch.arange(neurons)[:, None] * self.slots + slot + torch.arange(up.beside)
                    labels.append(own.reshape(-1))
                    slot += up.beside
                else:
                    labels.append(torch.arange(others, others + part))
                    others += part
            if up.place == place:
                return torch.cat(labels)
        return torch.full(shape_of(place[1])[-1:], FIXED)


def find_hidden_layer(flow: Flow, end: ScopedNode, where: str) -> HiddenLayer:
    """The hidden layer of the MLP whose result is that of the node at `end`, and which is or stands in `where`.

    Raises:
        AnalysisError: it does not end in one linear map, or what happens to its neurons is not understood.
    """
    downs = [place for place in flow.walk([end], lambda p: is_linear(p[1])) if is_linear(place[1])]
    if len(downs) != 1:
        raise AnalysisError(f"its result comes from {len(downs)} linear maps, not from one")
    return _Search(flow, downs[0], where).found()


class _Search:
    """Follows features from linear maps down to the one at `down`, in the MLP that is, or stands in, `where`."""

    def __init__(self, flow: Flow, down: ScopedNode, where: str) -> None:
        self._flow, self._down, self._where = flow, down, where
        self._begin: dict[ScopedNode, int] = {}
        """The first label of each linear map that was met."""
        self._end = 0
        self._run = LabelRun(flow, shape_of(down[1])[:-1], self._label)

    def _label(self, place: ScopedNode) -> Tensor:
        width = shape_of(place[1])[-1]
        begin = self._begin[place] = self._end
        self._end += width
        return torch.arange(begin, self._end)

    def found(self) -> HiddenLayer:
        """See `find_hidden_layer`."""
        self._require_linear(self._down)
        features = self._run.reach(self._flow.above(self._down)[0]).of_features()
        down = _called(self._down, self._where)
        if features is None:
            raise AnalysisError(f"{down} reads features that differ from token to token")
        hidden = (features >= 0).any(0) & (features != FIXED).all(0)
        if not hidden.any():
            stopped = " and ".join(dict.fromkeys(_called(place, self._where) for place in self._run.stopped))
            raise AnalysisError(
                f"between {down} and the linear maps before it comes {stopped or 'a parameter'}, which is not understood"
            )
        slots = _in_order(features[:, hidden])
        parts = _parts(hidden)
        if slots is None or parts.count(None) != 1:
            raise AnalysisError(f"{down} reads several hidden layers, or neurons in no order; only one can be changed")
        ups = tuple(self._ups(slots))
        is_neuron = torch.zeros(self._end, dtype=torch.bool)
        is_neuron[slots.reshape(-1)] = True
        between = self._between(ups, is_neuron)
        sides = self._sides(between, is_neuron)
        for up in ups:
            self._require_linear(up.place)
        out = HiddenLinear(*self._down, parts)
        seen = frozenset(path for path, _ in (*self._run.known, self._down))
        return HiddenLayer(slots.shape[1], ups, out, between, sides, seen)

    def _ups(self, slots: Tensor) -> list[HiddenLinear]:
        """The linear maps in execution order, from the labels of all neurons in their slots, (S, M)."""
        ups = []
        for place in sorted(self._begin, key=self._flow.order.__getitem__):
            begin, width = self._begin[place], shape_of(place[1])[-1]
            own = [row - begin for row in slots if begin <= int(row[0]) < begin + width]
            if own:
                ups.append(self._up(place, own, width))
        return ups

    def _up(self, place: ScopedNode, slots: Sequence[Tensor], width: int) -> HiddenLinear:
        """One of them, from where the features of each neuron are."""
        beside = int(slots[0][1] - slots[0][0]) if len(slots[0]) > 1 else 1
        starts = [int(row[0]) for row in slots[::beside]]
        regular = [start + torch.arange(len(slots[0])) * beside + k for start in starts for k in range(beside)]
        if len(slots) % beside or not all(map(torch.equal, slots, regular)):
            raise AnalysisError(
                f"the neurons of {_called(place, self._where)} stand in an order that is not understood"
            )
        is_neuron = torch.zeros(width, dtype=torch.bool)
        is_neuron[torch.stack(list(slots)).reshape(-1)] = True
        return HiddenLinear(*place, _parts(is_neuron, beside * len(slots[0])), beside)

    def _between(self, ups: Sequence[HiddenLinear], is_neuron: Tensor) -> frozenset[ScopedNode]:
        """Every place that has neurons, or a number on the way."""
        known = self._run.known
        tops = {up.place for up in ups}
        return frozenset(p for p, value in known.items() if p in tops or _tells(value, is_neuron))

    def _sides(self, between: frozenset[ScopedNode], is_neuron: Tensor) -> tuple[ScopedNode, ...]:
        """What reads tensors that have neurons, but no neurons.

        Raises:
            AnalysisError: something else than the way from the linear maps to the last one reads neurons.
        """
        inside = between | {self._down}
        entered = {path for path, _ in inside}
        sides = []
        for path, node in sorted(between, key=self._flow.order.__getitem__):
            for user in node.users:
                is_entering = user.op == "call_module" and child_path(path, user) in entered
                if user.op == "output" or not tensors(user) or (path, user) in inside or is_entering:
                    continue
                if not is_moving(user) or _tells(self._run.value((path, user)), is_neuron):
                    raise AnalysisError(f"{user.name} reads its neurons too")
                sides.append((path, user))
        return tuple(sides)

    def _require_linear(self, place: ScopedNode) -> None:
        """Raise AnalysisError if what is at `place` is no linear layer."""
        cls = place[1].meta.get("module_class")
        only = "only linear layers can change their width"
        if cls is None:
            raise AnalysisError(f"{_called(place, self._where)} is a function of parameters; {only}")
        if not issubclass(cls, nn.Linear):
            raise AnalysisError(f"{_called(place, self._where)} is a {cls.__name__}; {only}")


def _called(place: ScopedNode, where: str) -> str:
    """What is at `place`, as seen from the MLP."""
    path, node = place
    return child_path(path, node).removeprefix(f"{where}.") if node.op == "call_module" else node.name


def _tells(value: object, is_neuron: Tensor) -> bool:
    return isinstance(value, Labels) and value.tell(is_neuron)


def _in_order(features: Tensor) -> Tensor | None:
    """The labels of each neuron in order, (S, M), from those of the features that are neurons; None if they vary."""
    rows = in_order(features)
    counts, steps = (rows >= 0).sum(0), rows.diff(dim=1)
    alike = bool((counts == counts[0]).all()) and bool((steps == steps[:, :1]).all())
    return rows if alike and bool((steps[:, :1] > 0).all()) else None


def _parts(is_neuron: Tensor, length: int | None = None) -> tuple[Part, ...]:
    """What features are: runs of neurons, each of that `length`, and of others."""
    parts: list[Part] = []
    values, counts = torch.unique_consecutive(is_neuron, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        parts += [None] * (count // (length or count)) if value else [count]
    return tuple(parts)
