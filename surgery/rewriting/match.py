"""Finding the matches of a pattern, in time linear in the size of the model.

For each graph of a pattern the search begins at the node with the fewest candidates in a scope, and goes on along edges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from surgery.graph import ModelGraph
from surgery.graph.view import Key
from surgery.rewriting.pattern import Absence, GraphPattern, NodePattern, NodeTest, Pattern, Repeated, names
from surgery.rewriting.site import Item, Site

Binding = dict[str, Key]
"""The node of the view that each node of a pattern matched."""


def find_sites(graph: ModelGraph, pattern: Pattern) -> list[Site]:
    """Where `pattern` matches in a traced model; see `find_matches`."""
    matches = find_matches(graph.view if pattern.asks_for_roles else graph.flow_view, pattern)
    return [Site(graph, {name: Item(graph, key) for name, key in match.items()}) for match in matches]


def find_matches(view: nx.DiGraph, pattern: Pattern) -> list[Binding]:
    """All matches of `pattern` in the order of their first nodes in the graphs; those of the same nodes count as one.

    Where nodes of the pattern are interchangeable, the earlier name matches the earlier node.
    """
    index = _Index(view)
    found: dict[frozenset[Key], Binding] = {}
    bindings = _runs(index, pattern) if isinstance(pattern, Repeated) else _all(index, pattern)
    for binding in bindings:
        found.setdefault(frozenset(binding.values()), binding)
    return sorted(found.values(), key=lambda b: sorted(index.order[key] for key in b.values()))


def _all(index: _Index, pattern: Pattern) -> Iterator[Binding]:
    for graph in pattern.graphs():
        yield from _matches(index, graph)


def _runs(index: _Index, pattern: Repeated) -> Iterator[Binding]:
    """The longest unforked chains of what passes the test, cut into pieces."""
    keys = [key for _, keys in index.candidates(pattern.test) for key in keys]
    known = set(keys)
    after = {key: [k for k in index.near(key, after=True) if k in known] for key in keys}
    before = {key: [k for k in index.near(key, after=False) if k in known] for key in keys}
    follows = {a: b[0] for a, b in after.items() if len(b) == 1 and len(before[b[0]]) == 1}
    followers = set(follows.values())
    for start in (key for key in keys if key not in followers):
        run = [start]
        while run[-1] in follows:
            run.append(follows[run[-1]])
        size = pattern.at_most or len(run)
        for piece in (run[n : n + size] for n in range(0, len(run), size)):
            if len(piece) >= pattern.at_least:
                yield dict(zip(names(), piece, strict=False))


class _Index:
    """The view as the search needs it: nodes by scope, and dataflow.

    Attributes:
        order: position of every node, scopes in execution order.
    """

    def __init__(self, view: nx.DiGraph) -> None:
        self._view = view
        self._is_multiple = view.is_multigraph()  # else all edges are dataflow
        self._scopes: dict[str, list[Key]] = defaultdict(list)
        for key, attributes in view.nodes(data=True):
            self._scopes[attributes["scope"]].append(key)
        if self._is_multiple:  # operators made of several nodes stand at the end
            for keys in self._scopes.values():
                keys.sort(key=lambda key: (view.nodes[key]["order"], -len(key[1])))
        self.order = {key: n for n, key in enumerate(key for keys in self._scopes.values() for key in keys)}
        self._calls: dict[str, dict[str, list[Key]]] = defaultdict(lambda: defaultdict(list))
        for key in self.order:
            self._calls[view.nodes[key]["function"]][key[0]].append(key)
        self._near: dict[tuple[Key, bool], list[Key]] = {}

    def holds(self, test: NodeTest, key: Key) -> bool:
        """Whether the node at `key` passes `test`."""
        return test.holds(self._view.nodes[key])

    def candidates(self, test: NodeTest) -> Iterator[tuple[str, list[Key]]]:
        """The nodes that pass `test`, by scope."""
        function = test.function if isinstance(test, NodePattern) else None
        for scope, keys in (self._calls[function] if function else self._scopes).items():
            yield scope, [key for key in keys if self.holds(test, key)]

    def near(self, key: Key, after: bool) -> list[Key]:
        """What the node at `key` feeds, or else what it reads."""
        if (key, after) not in self._near:
            edges = self._view.succ[key] if after else self._view.pred[key]
            flow = [other for other, found in edges.items() if not self._is_multiple or _flows(found)]
            self._near[key, after] = sorted(flow, key=self.order.__getitem__)
        return self._near[key, after]


def _flows(edges: Mapping[int, Mapping[str, Any]]) -> bool:
    return any(edge["kind"] == "flow" for edge in edges.values())


@dataclass(frozen=True)
class _Step:
    """Where to look for the next node of a pattern: beyond one that is matched, along an edge."""

    name: str
    known: str
    after: bool


def _matches(index: _Index, pattern: GraphPattern) -> Iterator[Binding]:
    by_scope: dict[str, dict[str, list[Key]]] = defaultdict(dict)
    for name, test in pattern.nodes.items():
        for scope, keys in index.candidates(test):
            if keys:
                by_scope[scope][name] = keys
    search = _Search(index, pattern)
    for starts in by_scope.values():
        if len(starts) == len(pattern.nodes):
            first = min(starts, key=lambda name: len(starts[name]))
            yield from search.matches(first, starts[first])


class _Search:
    """The search for one graph."""

    def __init__(self, index: _Index, pattern: GraphPattern) -> None:
        self._index, self._pattern = index, pattern
        self._plans: dict[str, list[_Step]] = {}
        nodes = pattern.nodes
        self._rank = {name: n for n, name in enumerate(nodes)}
        self._twins = {name: [other for other in nodes if _are_twins(pattern, name, other)] for name in nodes}

    def matches(self, first: str, keys: Sequence[Key]) -> Iterator[Binding]:
        """Those in which the node called `first` is one of `keys`."""
        steps = self._plans.setdefault(first, _plan(self._pattern, first))
        for key in keys:
            for binding in self._extend({first: key}, steps):
                if not any(self._is_present(binding, absence) for absence in self._pattern.without):
                    yield {name: binding[name] for name in self._pattern.nodes}

    def _is_present(self, binding: Binding, absence: Absence) -> bool:
        near = self._index.near(binding[absence.node], after=absence.side == "followed_by")
        return any(self._index.holds(absence.test, key) for key in near)

    def _extend(self, binding: Binding, steps: Sequence[_Step]) -> Iterator[Binding]:
        """Every way to match the nodes of `steps` besides those of `binding`."""
        if not steps:
            yield binding
            return
        step = steps[0]
        for key in self._index.near(binding[step.known], step.after):
            if key not in binding.values() and self._fits(binding, step.name, key):
                yield from self._extend({**binding, step.name: key}, steps[1:])

    def _fits(self, binding: Binding, name: str, key: Key) -> bool:
        """Whether `key` passes the test of the node `name`, has its edges to all that is matched, and keeps the order."""
        if not self._index.holds(self._pattern.nodes[name], key):
            return False
        for a, b in self._pattern.edges:
            if a == name and b in binding and binding[b] not in self._index.near(key, after=True):
                return False
            if b == name and a in binding and binding[a] not in self._index.near(key, after=False):
                return False
        rank, order = self._rank, self._index.order
        twins = [other for other in self._twins[name] if other in binding]
        return all((rank[name] < rank[other]) == (order[key] < order[binding[other]]) for other in twins)


def _plan(pattern: GraphPattern, first: str) -> list[_Step]:
    """An order in which every node hangs on one before it."""
    steps: list[_Step] = []
    known = {first}
    while len(known) < len(pattern.nodes):
        a, b = next(edge for edge in pattern.edges if len(known & set(edge)) == 1)
        step = _Step(b, a, True) if a in known else _Step(a, b, False)
        steps.append(step)
        known.add(step.name)
    return steps


def _are_twins(pattern: GraphPattern, name: str, other: str) -> bool:
    """Whether two different nodes of a pattern can be interchanged."""
    if name == other or pattern.nodes[name] != pattern.nodes[other]:
        return False
    swap = {name: other, other: name}
    edges = {(swap.get(a, a), swap.get(b, b)) for a, b in pattern.edges}
    swapped = [(swap.get(x.node, x.node), x.side, x.test) for x in pattern.without]
    return edges == set(pattern.edges) and all((x.node, x.side, x.test) in swapped for x in pattern.without)
