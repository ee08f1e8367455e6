"""Matches by brute force: the definition that the matcher is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx
from networkx.algorithms.isomorphism import DiGraphMatcher

from surgery.graph.view import Key
from surgery.rewriting.pattern import GraphPattern, Pattern, Repeated

Match = frozenset[Key]


def matches(view: nx.MultiDiGraph, pattern: Pattern) -> set[Match]:
    """The sets of nodes that `pattern` matches."""
    return {match for flow in _flows(view) for match in _matches(flow, pattern)}


def _flows(view: nx.MultiDiGraph) -> Iterator[nx.DiGraph]:
    """The dataflow of each scope."""
    for scope in {scope for _, scope in view.nodes(data="scope")}:
        flow = nx.DiGraph()
        flow.add_nodes_from((key, data) for key, data in view.nodes(data=True) if data["scope"] == scope)
        flow.add_edges_from((a, b) for a, b, kind in view.edges(data="kind") if kind == "flow" and a in flow)
        yield flow


def _matches(flow: nx.DiGraph, pattern: Pattern) -> Iterator[Match]:
    return _runs(flow, pattern) if isinstance(pattern, Repeated) else _embedded(flow, pattern)


def _embedded(flow: nx.DiGraph, pattern: Pattern) -> Iterator[Match]:
    for graph in pattern.graphs():
        matcher = DiGraphMatcher(flow, graph.to_networkx(), node_match=_passes)
        for mapping in matcher.subgraph_monomorphisms_iter():
            if not any(_is_present(flow, graph, {name: key for key, name in mapping.items()})):
                yield frozenset(mapping)


def _passes(attributes: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return bool(wanted["test"].holds(attributes))


def _is_present(flow: nx.DiGraph, pattern: GraphPattern, match: Mapping[str, Key]) -> Iterator[bool]:
    """Whether what each negative condition forbids is there."""
    for absence in pattern.without:
        near = flow.succ if absence.side == "followed_by" else flow.pred
        yield any(absence.test.holds(flow.nodes[key]) for key in near[match[absence.node]])


def _runs(flow: nx.DiGraph, pattern: Repeated) -> Iterator[Match]:
    """What passes the test, in pieces of the paths that are left when every edge at a fork is taken away."""
    passing = flow.subgraph([key for key, data in flow.nodes(data=True) if pattern.test.holds(data)])
    links = [(a, b) for a, b in passing.edges if passing.out_degree(a) == 1 and passing.in_degree(b) == 1]
    paths = nx.DiGraph(links)
    paths.add_nodes_from(passing)
    for path in nx.weakly_connected_components(paths):
        run = list(nx.topological_sort(paths.subgraph(path)))
        size = pattern.at_most or len(run)
        pieces = [run[start : start + size] for start in range(0, len(run), size)]
        yield from (frozenset(piece) for piece in pieces if len(piece) >= pattern.at_least)
