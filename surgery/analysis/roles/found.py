"""What the recognition of one role gives, before it becomes an `Operator`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import fx

from surgery.analysis.roles.flow import Place
from surgery.analysis.roles.operator import Role
from surgery.analysis.roles.structure import Structure


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
    found = {node for at, node in places if at == path}
    for below in {at for at, _ in places if at != path}:
        found.update(
            call for outer in _around(below) for at, call in structure.flow.callers.get(outer, ()) if at == path
        )
    return in_order(structure, path, found)


def in_order(structure: Structure, path: str, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    """`nodes` of the graph of the scope at `path` in execution order."""
    return tuple(sorted(nodes, key=lambda node: structure.flow.order[path, node]))


def _around(path: str) -> list[str]:
    """`path`, and those of the modules around it."""
    parts = path.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
