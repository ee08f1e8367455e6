"""The scopes of a model as one dataflow graph: calls are followed into the scopes that they enter, and out again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import fx

from surgery.analysis.roles.primitives import inputs_of, name_of, tensors
from surgery.recording.binding import binder
from surgery.recording.paths import child_path, is_inside, opened, outers
from surgery.recording.reach import reach
from surgery.recording.recording import Scope
from surgery.recording.signature import is_input
from surgery.recording.torch_private import pytree

ScopedNode = tuple[str, fx.Node]
"""A node of the graph of the scope at a path; identical blocks share their nodes."""


def never(place: ScopedNode) -> bool:  # noqa: ARG001
    """Stop nowhere."""
    return False


class Flow:
    """Dataflow through all scopes.

    Attributes:
        scopes: by path.
        order: every place by its number in execution order; a call comes before what it runs.
        callers: the calls of each module, by its path.
    """

    def __init__(self, scopes: Mapping[str, Scope]) -> None:
        self.scopes = scopes
        self.order: dict[ScopedNode, int] = {}
        self.callers: dict[str, list[ScopedNode]] = defaultdict(list)
        self._writes: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        self._above: dict[ScopedNode, list[ScopedNode]] = {}
        self._enter("")

    def _enter(self, path: str) -> None:
        """Number the nodes of the scope at `path`, and of those that it calls, at their first call."""
        for node in self.scopes[path].graph.nodes:
            place = (path, node)
            self.order.setdefault(place, len(self.order))
            if node.op == "call_module":
                inner = child_path(path, node)
                known = inner in self.callers
                self.callers[inner].append(place)
                if inner in self.scopes and not known:
                    self._enter(inner)
            elif name_of(node) == "setitem":
                written, value = node.args[0], node.args[2]
                if isinstance(written, fx.Node) and isinstance(value, fx.Node) and value not in self._writes[written]:
                    self._writes[written].append(value)

    def entered(self, place: ScopedNode) -> str | None:
        """The path of the scope that the call at `place` enters; None if it enters none."""
        return opened(self.scopes, *place)

    def above(self, place: ScopedNode) -> list[ScopedNode]:
        """What the tensors at `place` are computed from, one step up."""
        if place not in self._above:
            self._above[place] = list(dict.fromkeys(self._sources(place)))
        return self._above[place]

    def _sources(self, place: ScopedNode) -> list[ScopedNode]:
        """See `above`."""
        path, node = place
        if node.op == "placeholder":
            return self._arguments(path, node)
        result = self._result(path, node)
        if result is not None:
            return [(result[0], leaf) for leaf in pytree.tree_leaves(result[1]) if isinstance(leaf, fx.Node)]
        return [(path, source) for source in (*inputs_of(node), *self._writes.get(node, ()))]

    def _arguments(self, path: str, node: fx.Node) -> list[ScopedNode]:
        """What the callers of the scope at `path` pass for its placeholder `node`."""
        recording = self.scopes[path].recordings[0]
        taken = [i for i, leaf in enumerate(recording.in_leaves) if is_input(leaf)]
        index = dict(zip(recording.graph.find_nodes(op="placeholder"), taken, strict=False)).get(node)
        found = []
        for caller, call in self.callers[path]:
            leaves = _call_leaves(self.scopes[path], call)
            if index is not None and len(leaves) == len(recording.in_leaves) and isinstance(leaves[index], fx.Node):
                found.append((caller, leaves[index]))
        return [place for place in found if tensors(place[1])]

    def _result(self, path: str, node: fx.Node) -> tuple[str, Any] | None:
        """If `node` is, or is taken out of, the result of an opened call: that scope, and its nodes in their places."""
        if name_of(node) == "getitem" and isinstance(node.args[0], fx.Node):
            outer = self._result(path, node.args[0])
            if outer is None or not isinstance(outer[1], tuple | list | dict):
                return None
            return outer[0], outer[1][node.args[1]]  # type: ignore[index]
        inner = self.entered((path, node))
        if inner is None:
            return None
        recording = self.scopes[inner].recordings[0]
        output = next(iter(recording.graph.find_nodes(op="output")))
        results = output.args[0][: recording.out_spec.num_leaves]
        return inner, pytree.tree_unflatten(results, recording.out_spec)

    def walk(
        self,
        starts: Iterable[ScopedNode],
        stop: Callable[[ScopedNode], bool] = never,
        within: str = "",
        above: Callable[[ScopedNode], list[ScopedNode]] | None = None,
    ) -> Iterator[ScopedNode]:
        """Every place that `starts` depend on, and they themselves, once each.

        Args:
            starts: where to begin.
            stop: a place that is given, and not gone above.
            within: a scope whose inputs are not gone above.
            above: one step up; by default, all that a place depends on.
        """
        step = above or self.above

        def onwards(place: ScopedNode) -> Iterable[ScopedNode]:
            if stop(place) or (place[0] == within and place[1].op == "placeholder"):
                return ()
            return (source for source in step(place) if is_inside(source[0], within))

        return reach(starts, onwards)

    def between(self, tops: Collection[ScopedNode], bottom: ScopedNode, within: str) -> set[ScopedNode]:
        """All places on the ways from any of `tops` down to `bottom` inside a scope, without the tops; maybe none."""
        below: dict[ScopedNode, list[ScopedNode]] = defaultdict(list)
        for place in self.walk([bottom], lambda p: p in tops, within):
            for source in self.above(place):
                below[source].append(place)
        return set(reach((top for top in tops if top in below), lambda place: below[place])) - set(tops)

    def smallest_scope(self, places: Collection[ScopedNode]) -> str:
        """The path of the smallest scope that encloses `places`."""
        first, *others = {path for path, _ in places}
        around = (p for p in ("", *outers(first)) if p in self.scopes and all(is_inside(other, p) for other in others))
        return list(around)[-1]

    def nodes_in(self, path: str, places: Collection[ScopedNode]) -> tuple[fx.Node, ...]:
        """The nodes of the scope at `path` that are, or whose calls enclose, `places`; in execution order."""
        found = {node for at, node in places if at == path}
        around = {outer for at, _ in places if at != path for outer in outers(at)}
        found.update(call for outer in around for at, call in self.callers.get(outer, ()) if at == path)
        return self.in_order(path, found)

    def in_order(self, path: str, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        """`nodes` of the graph of the scope at `path` in execution order."""
        return tuple(sorted(nodes, key=lambda node: self.order[path, node]))


def _call_leaves(scope: Scope, call: fx.Node) -> list[Any]:
    """The flattened arguments of a call, in the order of the inputs of its scope."""
    return pytree.tree_flatten(binder(scope.module_class)(*call.args, **call.kwargs))[0]
