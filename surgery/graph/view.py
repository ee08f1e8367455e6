"""The `networkx` view that patterns match on."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import torch
from torch import fx

from surgery.graph.scope import Scope


def to_networkx(scopes: Mapping[str, Scope]) -> nx.MultiDiGraph:
    """A directed multigraph of all scopes.

    Nodes are `(scope path, fx node name)` with the attributes `op`, `target`, `scope`, `shape` and `dtype` (of a tensor
    result, else None) and `flops`. Edges carry `kind`: "data" with the `position` of the argument, or "enter" from a
    `call_module` node to the placeholders of the scope that it calls.
    """
    view = nx.MultiDiGraph()
    for path, scope in scopes.items():
        for node in scope.graph.nodes:
            view.add_node((path, node.name), **_attributes(node, path))
    for path, scope in scopes.items():
        for node in scope.graph.nodes:
            for position, source in enumerate(node.all_input_nodes):
                view.add_edge((path, source.name), (path, node.name), kind="data", position=position)
            inner = child_path(path, node)
            if inner in scopes:
                for entry in scopes[inner].graph.find_nodes(op="placeholder"):
                    view.add_edge((path, node.name), (inner, entry.name), kind="enter")
    return view


def child_path(path: str, node: fx.Node) -> str | None:
    """The path of the module that `node`, in the scope at `path`, calls; None if it calls no module."""
    if node.op != "call_module":
        return None
    return f"{path}.{node.target}" if path else str(node.target)


def _attributes(node: fx.Node, path: str) -> dict[str, object]:
    value = node.meta.get("val")
    tensor = isinstance(value, torch.Tensor)
    return {
        "op": node.op,
        "target": node.target,
        "scope": path,
        "shape": tuple(value.shape) if tensor else None,
        "dtype": value.dtype if tensor else None,
        "flops": node.meta.get("flops", 0),
    }
