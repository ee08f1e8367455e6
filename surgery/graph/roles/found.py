"""What the recognition of one role gives, before it becomes an `Operator`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx

from surgery.graph.paths import child_path
from surgery.graph.roles.flow import Place, is_inside
from surgery.graph.roles.operator import Role
from surgery.graph.roles.structure import Structure


@dataclass(frozen=True)
class Found:
    """A role, and what has it: the module at `path`, or `nodes` of the graph of the scope there."""

    role: Role
    path: str
    nodes: tuple[fx.Node, ...] = ()


def smallest_scope(structure: Structure, places: Collection[Place]) -> str:
    """The path of the smallest scope that encloses `places`."""
    paths = [place[0].split(".") for place in places]
    shared = 0
    while all(len(p) > shared for p in paths) and len({p[shared] for p in paths}) == 1:
        shared += 1
    parts = paths[0][:shared]
    while ".".join(parts) not in structure.flow.scopes:
        parts.pop()
    return ".".join(parts)


def nodes_in(structure: Structure, path: str, places: Collection[Place]) -> tuple[fx.Node, ...]:
    """The nodes of the graph of the scope at `path` that are, or whose calls enclose, `places`; in execution order."""
    graph = structure.flow.scopes[path].graph
    calls = [(child_path(path, call), call) for call in graph.find_nodes(op="call_module")]
    found = {node for at, node in places if at == path}
    for below in {at for at, _ in places if at != path}:
        found.update(call for outer, call in calls if is_inside(below, outer))
    return tuple(node for node in graph.nodes if node in found)
