"""Norms: division by the root mean square or the deviation of the features, as a module or written out."""

from __future__ import annotations

from torch import fx

from surgery.analysis.roles.operator import Recognised
from surgery.analysis.roles.primitives import (
    MULTIPLICATIONS,
    NORM_MODULES,
    NORMS,
    inputs_of,
    is_attention,
    is_linear,
    is_module,
    name_of,
)
from surgery.analysis.roles.structure import Structure
from surgery.recording.paths import child_path


def find_norms(structure: Structure) -> list[Recognised]:
    """Each norm: a norm module, a module that does nothing else, or the nodes of one in another module."""
    found = []
    for place in structure.flow.order:
        path, node = place
        if is_module(node, NORM_MODULES):
            found.append(Recognised("norm", child_path(path, node)))
    for path, scope in structure.flow.scopes.items():
        written = [nodes for node in scope.graph.nodes if (nodes := _written_out(node))]
        if written and structure.is_module(path) and _is_plain(scope.graph):
            found.append(Recognised("norm", path))
        else:
            found += [Recognised("norm", path, nodes) for nodes in written]
    return found


def _is_plain(graph: fx.Graph) -> bool:
    """Whether a graph calls no modules and has no learned maps."""
    return not any(node.op == "call_module" or is_linear(node) or is_attention(node) for node in graph.nodes)


def _written_out(node: fx.Node) -> tuple[fx.Node, ...]:
    """The nodes of the norm whose function, or whose reciprocal root of a mean square, is `node`."""
    if name_of(node) in NORMS:
        return (node,)
    if name_of(node) != "rsqrt":
        return ()
    squares = _up_to_square(node)
    scaled = [user for user in node.users if name_of(user) in MULTIPLICATIONS]
    return (*squares, node, *scaled[:1]) if squares else ()


def _up_to_square(node: fx.Node) -> tuple[fx.Node, ...]:
    """What stands above the reciprocal root `node`, up to and with the square; empty if no mean of squares does."""
    way = []
    while len(inputs_of(node)) == 1:
        node = inputs_of(node)[0]
        way.append(node)
        if name_of(node) in ("pow", "square"):
            return tuple(reversed(way))
    return ()
