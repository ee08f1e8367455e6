"""Sets that have something in common."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

import networkx as nx


def overlapping(sets: Sequence[Collection[Hashable]]) -> list[list[int]]:
    """The numbers of `sets`, those together that share an element or are tied by others that do; in order."""
    holders: dict[Hashable, int] = {}
    graph = nx.Graph()
    for number, members in enumerate(sets):
        graph.add_node(number)
        graph.add_edges_from((holders.setdefault(member, number), number) for member in members)
    return sorted(sorted(component) for component in nx.connected_components(graph))
