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
            inner = opened(scopes, path, node)
            if inner is not None:
                for entry in scopes[inner].graph.find_nodes(op="placeholder"):
                    view.add_edge((path, node.name), (inner, entry.name), kind="enter")
    return view


def child_path(path: str, node: fx.Node) -> str:
    """The path of the module that the `call_module` node `node`, in the scope at `path`, calls."""
    return f"{path}.{node.target}" if path else str(node.target)


def opened(scopes: Mapping[str, Scope], path: str, node: fx.Node) -> str | None:
    """The path of the scope that `node` enters; None if it enters none."""
    inner = child_path(path, node) if node.op == "call_module" else None
    return inner if inner in scopes else None


def _attributes(node: fx.Node, path: str) -> dict[str, object]:
    value = node.meta.get("val")
    tensor = value if isinstance(value, torch.Tensor) else None
    return {
        "op": node.op,
        "target": node.target,
        "scope": path,
        "shape": None if tensor is None else tuple(tensor.shape),
        "dtype": None if tensor is None else tensor.dtype,
        "flops": node.meta.get("flops", 0),
    }
