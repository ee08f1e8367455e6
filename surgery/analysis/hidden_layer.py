"""The hidden layer of an MLP: the linear maps that make its neurons, and the one that reads them.

In between, functions may be applied to each neuron, neurons be multiplied with each other (gates), tensors be taken apart
in chunks and others be put beside them, in whatever modules that happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import fx, nn

from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import (
    ACTIVATIONS,
    ELEMENTWISE,
    LAYOUT,
    inputs_of,
    is_activation,
    is_layout,
    is_linear,
    name_of,
    shape_of,
    tensors,
)
from surgery.errors import AnalysisError
from surgery.recording.paths import child_path

Part = int | None
"""Of the features of a tensor: one for each neuron (None), or so many others."""

_MOVING = {"permute", "transpose"}
_BY_FEATURE = ACTIVATIONS | ELEMENTWISE | (LAYOUT - _MOVING) | {"pow", "square", "clamp", "neg", "abs", "exp"}


@dataclass(frozen=True)
class HiddenLinear:
    """A linear map into the hidden layer or out of it.

    Attributes:
        scope: path of the scope that calls it.
        node: the call.
        parts: what its results are, of the last one what it reads.
    """

    scope: str
    node: fx.Node
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class HiddenLayer:
    """A hidden layer.

    Attributes:
        neurons: how many it has.
        ups: the linear maps that make them: one, or several of a gated MLP.
        down: the linear map that reads them.
        between: every place on the ways from those to this.
    """

    neurons: int
    ups: tuple[HiddenLinear, ...]
    down: HiddenLinear
    between: frozenset[ScopedNode]


@dataclass(frozen=True)
class _Run:
    """Neighbouring features: computed from those results of linear maps that begin at `sources`, one by one."""

    width: int
    sources: frozenset[tuple[ScopedNode, int]] = frozenset()

    def cut(self, start: int, width: int) -> _Run:
        return _Run(width, frozenset((place, first + start) for place, first in self.sources))


def find_hidden_layer(flow: Flow, end: ScopedNode, where: str) -> HiddenLayer:
    """The hidden layer of the MLP whose result is that of the node at `end`, and which is or stands in `where`.

    Raises:
        AnalysisError: it does not end in one linear map, or what happens to its neurons is not understood.
    """
    search = _Search(flow, where)
    downs = [place for place in flow.walk([end], lambda p: is_linear(p[1])) if is_linear(place[1])]
    if len(downs) != 1:
        raise AnalysisError(f"its result comes from {len(downs)} linear maps, not from one")
    down = downs[0]
    search.require_linear(down)
    columns = _joined(search.columns(flow.above(down)[0]))
    hidden = [run for run in columns if run.sources]
    if not hidden:
        between = " and ".join(dict.fromkeys(search.stopped))
        raise AnalysisError(
            f"between {search.called(down)} and the linear maps before it comes {between}, which is not understood"
        )
    if len(hidden) > 1:
        raise AnalysisError(f"{search.called(down)} reads {len(hidden)} hidden layers; only one can change its width")
    neurons = hidden[0].width
    starts: dict[ScopedNode, list[int]] = {}
    for place, start in hidden[0].sources:
        starts.setdefault(place, []).append(start)
    search.require_unread(down)
    ordered = sorted(starts, key=flow.order.__getitem__)
    ups = [HiddenLinear(*place, _parts(sorted(starts[place]), neurons, shape_of(place[1])[-1])) for place in ordered]
    for linear in ordered:
        search.require_linear(linear)
    out = HiddenLinear(*down, tuple(None if r.sources else r.width for r in columns))
    return HiddenLayer(neurons, tuple(ups), out, search.between())


class _Search:
    """Follows features from linear maps downwards, in the MLP that is, or stands in, the scope at `where`."""

    def __init__(self, flow: Flow, where: str) -> None:
        self._flow, self._where = flow, where
        self._known: dict[ScopedNode, list[_Run]] = {}
        self.stopped: list[str] = []

    def columns(self, place: ScopedNode) -> list[_Run]:
        """What the features of the tensor at `place` come from."""
        if place not in self._known:
            self._known[place] = self._columns(place)
        return self._known[place]

    def _columns(self, place: ScopedNode) -> list[_Run]:
        """See `columns`."""
        path, node = place
        if is_linear(node):
            return [_Run(shape_of(node)[-1], frozenset([(place, 0)]))]
        name, sources = name_of(node), self._flow.above(place)
        piece = _piece(node)
        if piece is not None:
            if inputs_of(node)[0] is not piece.source:
                self._known[path, inputs_of(node)[0]] = []  # all pieces together
            return _cut(self.columns((path, piece.source)), piece.start, _width(node))
        if name == "cat" and node.kwargs.get("dim", node.args[-1]) in (-1, len(shape_of(node)) - 1):
            return [run for source in _items(node) for run in self.columns((path, source))]
        is_by_feature = name in _BY_FEATURE or is_activation(node) or (is_layout(node) and name not in _MOVING)
        wide = [source for source in sources if _width(source[1]) == _width(node)]
        is_even = all(_width(source[1]) in (0, 1, _width(node)) for source in sources)
        if wide and is_even and (is_by_feature or _is_passed_on(place, self._flow)):
            return _merged([self.columns(source) for source in wide])
        self.stopped.append(self.called(place))
        return [_Run(_width(node))]

    def require_linear(self, place: ScopedNode) -> None:
        """Raise AnalysisError if what is at `place` is no linear layer."""
        cls = place[1].meta.get("module_class")
        only = "only linear layers can change their width"
        if cls is None:
            raise AnalysisError(f"{self.called(place)} is a function of parameters; {only}")
        if not issubclass(cls, nn.Linear):
            raise AnalysisError(f"{self.called(place)} is a {cls.__name__}; {only}")

    def called(self, place: ScopedNode) -> str:
        """What is at `place`, as seen from the MLP."""
        path, node = place
        return child_path(path, node).removeprefix(f"{self._where}.") if node.op == "call_module" else node.name

    def between(self) -> frozenset[ScopedNode]:
        """Every place that has neurons."""
        return frozenset(place for place, runs in self._known.items() if not runs or any(run.sources for run in runs))

    def require_unread(self, down: ScopedNode) -> None:
        """Raise AnalysisError if something else than the way from the linear maps to `down` reads the neurons."""
        inside = self.between() | {down}
        entered = {path for path, _ in inside}
        for path, node in inside - {down}:
            for user in node.users:
                is_entering = user.op == "call_module" and child_path(path, user) in entered
                if user.op != "output" and tensors(user) and (path, user) not in inside and not is_entering:
                    raise AnalysisError(f"{user.name} reads its neurons too")


def _items(cat: fx.Node) -> list[fx.Node]:
    """What is put side by side, a tensor that is given twice being there twice."""
    given = cat.args[0] if cat.args else cat.kwargs["tensors"]
    assert isinstance(given, Sequence)
    return [item for item in given if isinstance(item, fx.Node)]


def _is_passed_on(place: ScopedNode, flow: Flow) -> bool:
    """Whether `place` is an argument of a scope, or the result of a call that was followed."""
    node = place[1]
    return node.op == "placeholder" or flow.entered(place) is not None or name_of(node) == "getitem"


@dataclass(frozen=True)
class _Piece:
    """Neighbouring features of a tensor, from `start` on."""

    source: fx.Node
    start: int


def _piece(node: fx.Node) -> _Piece | None:
    """What `node` takes out of a tensor, if that is a part of its features whose size follows from their number."""
    if name_of(node) != "getitem":
        return None
    source, taken = node.args
    assert isinstance(source, fx.Node)
    if isinstance(taken, int) and name_of(source) in ("chunk", "split"):
        return _split_piece(source, taken)
    last = taken[-1] if isinstance(taken, tuple) and taken[0] is Ellipsis and len(taken) == 2 else None
    if not isinstance(last, slice) or last.step is not None:
        return None
    bounds = [bound for bound in (last.start, last.stop) if bound is not None]
    is_relative = bool(bounds) and all(isinstance(bound, fx.Node) for bound in bounds)
    return _Piece(source, 0 if last.start is None else int(last.start.meta["val"])) if is_relative else None


def _split_piece(split: fx.Node, number: int) -> _Piece | None:
    """The piece of that number of a tensor that is split into several of equal or computed sizes."""
    source, *given = split.args
    assert isinstance(source, fx.Node)
    dim = split.kwargs.get("dim", given[1] if len(given) > 1 else 0)
    is_relative = name_of(split) == "chunk" or any(user is not source for user in split.all_input_nodes)
    if dim not in (-1, len(shape_of(source)) - 1) or not is_relative:
        return None
    widths = [tensor.shape[-1] for tensor in tensors(split)]
    return _Piece(source, sum(widths[: number % len(widths)]))


def _merged(columns: Sequence[list[_Run]]) -> list[_Run]:
    """Tensors of the same width combined feature by feature; with others, neurons are none that can be added to."""
    edges = sorted({edge for runs in columns for edge in _edges(runs)})
    pieces = [[_cut(runs, a, b - a)[0] for a, b in pairwise(edges)] for runs in columns]
    merged = []
    for runs in zip(*pieces, strict=True):
        sources = frozenset(source for run in runs for source in run.sources)
        merged.append(_Run(runs[0].width, sources if all(run.sources for run in runs) else frozenset()))
    return merged


def _edges(runs: Iterable[_Run]) -> list[int]:
    """Where each run begins, and where the last one ends."""
    edges = [0]
    for run in runs:
        edges.append(edges[-1] + run.width)
    return edges


def _cut(runs: Sequence[_Run], start: int, width: int) -> list[_Run]:
    """`width` features from `start` on."""
    found = []
    for run, first in zip(runs, _edges(runs), strict=False):
        a, b = max(start, first), min(start + width, first + run.width)
        if a < b:
            found.append(run.cut(a - first, b - a))
    return found


def _joined(runs: Iterable[_Run]) -> list[_Run]:
    """The same features in as few runs as possible."""
    joined: list[_Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last is not None and run.sources == last.cut(last.width, run.width).sources:
            joined[-1] = replace(last, width=last.width + run.width)
        else:
            joined.append(run)
    return joined


def _parts(starts: Sequence[int], neurons: int, width: int) -> tuple[Part, ...]:
    """What the results of a linear map are, `neurons` of them from each of `starts` on."""
    parts: list[Part] = []
    end = 0
    for start in starts:
        parts += [start - end, None] if start > end else [None]
        end = start + neurons
    return (*parts, width - end) if width > end else tuple(parts)


def _width(node: fx.Node) -> int:
    """How many features the result of `node` has; 0 of no tensor."""
    shape = shape_of(node)
    return shape[-1] if shape else 0
