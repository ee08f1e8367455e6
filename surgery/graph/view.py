"""The `networkx` view that patterns match on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx
import torch
from torch import fx

from surgery.analysis.analysis import Analysis
from surgery.analysis.roles import Operator
from surgery.analysis.roles.layers import layer_of
from surgery.analysis.roles.operator import mixes
from surgery.analysis.roles.primitives import SPLITS, is_layout, name_of, tensors
from surgery.recording.paths import child_path, opened, parent_and_name
from surgery.recording.reach import reach
from surgery.recording.recording import Scope

Key = tuple[str, str]
"""A node of the view: the path of its scope, and its name there."""

OPERATOR = "operator:"
"""Begins the names of operators that are made of several nodes."""


def to_networkx(scopes: Mapping[str, Scope], analysis: Analysis) -> nx.MultiDiGraph:
    """A directed multigraph of all scopes.

    Nodes are `(scope path, fx node name)`, and `(scope path, "operator:NAME")` for each operator that is made of several
    fx nodes. Their attributes: `op` ("operator" for the latter), `target`, `scope`, `shape` and `dtype` (of a tensor
    result, else None), `flops`, `order` in the graph of the scope, and what patterns ask for: `role` ("block" for
    blocks that have no other), `is_block`, `module_class`, `function`, `within` (the role of the operator around it),
    `scope_class`, `layer`.

    Edges carry `kind`: "data" with the `position` of the argument; "enter" from a `call_module` node to the placeholders
    of the scope that it calls; "flow" from whatever makes a tensor to what reads it, also past nodes that only view,
    cast or take apart.
    """
    view = nx.MultiDiGraph()
    roles = _Roles(analysis)
    for path, scope in scopes.items():
        for order, node in enumerate(scope.graph.nodes):
            view.add_node((path, node.name), **_attributes(node, scope, order), **roles.of(path, node))
    for path, scope in scopes.items():
        for node in scope.graph.nodes:
            for position, source in enumerate(node.all_input_nodes):
                view.add_edge((path, source.name), (path, node.name), kind="data", position=position)
            inner = opened(scopes, path, node)
            if inner is not None:
                for entry in scopes[inner].graph.find_nodes(op="placeholder"):
                    view.add_edge((path, node.name), (inner, entry.name), kind="enter")
        view.add_edges_from(_flow_edges(path, scope), kind="flow")
    for operator in analysis.operators:
        if len(operator.nodes) > 1:
            _add_operator(view, operator)
    return view


def flow_view(scopes: Mapping[str, Scope]) -> nx.DiGraph:
    """What `to_networkx` gives without roles and with edges of dataflow only, which many patterns need no more than."""
    view = nx.DiGraph()
    unknown = {"role": None, "is_block": False, "within": None, "layer": None}
    for path, scope in scopes.items():
        for order, node in enumerate(scope.graph.nodes):
            view.add_node((path, node.name), **_attributes(node, scope, order), **unknown)
        view.add_edges_from(_flow_edges(path, scope))
    return view


def _flow_edges(path: str, scope: Scope) -> Iterator[tuple[Key, Key]]:
    """Edges of dataflow between the nodes of one scope."""
    for node, sources in flow_of(scope.graph).items():
        for source in sources:
            yield (path, source.name), (path, node.name)


def flow_of(graph: fx.Graph) -> dict[fx.Node, dict[fx.Node, None]]:
    """For each node that makes a tensor, what it reads: directly, and past nodes that only change the layout."""
    flow: dict[fx.Node, dict[fx.Node, None]] = {}
    past: dict[fx.Node, dict[fx.Node, None]] = {}
    for node in graph.nodes:
        if tensors(node):
            sources = [source for source in node.all_input_nodes if source in flow]
            flow[node] = dict.fromkeys((*sources, *(far for source in sources for far in past[source])))
            past[node] = flow[node] if _is_transparent(node) else {}
    return flow


def feeds(source: fx.Node, user: fx.Node) -> bool:
    """Whether `user` reads `source`: directly, or past nodes that only change the layout."""
    # What an edit put in has no value yet.
    return source in reach(user.all_input_nodes, lambda node: node.all_input_nodes if _is_transparent(node) else ())


def _is_transparent(node: fx.Node) -> bool:
    """Whether dataflow is followed past `node`."""
    return is_layout(node) or name_of(node) in SPLITS


def _attributes(node: fx.Node, scope: Scope, order: int) -> dict[str, Any]:
    """What patterns ask for, but for roles."""
    value = node.meta.get("val")
    tensor = value if isinstance(value, torch.Tensor) else None
    cls = node.meta.get("module_class")
    return {
        "op": node.op,
        "target": node.target,
        "scope": scope.path,
        "scope_class": scope.module_class.__name__,
        "module_class": cls.__name__ if cls is not None else None,
        "function": name_of(node) or None,
        "shape": None if tensor is None else tuple(tensor.shape),
        "dtype": None if tensor is None else tensor.dtype,
        "flops": node.meta.get("flops", 0),
        "order": order,
    }


class _Roles:
    """What the operators say of each node."""

    def __init__(self, analysis: Analysis) -> None:
        operators, self._layers = analysis.operators, analysis.layers
        self._modules = {o.path: o.role for o in operators if not o.nodes}
        self._nodes = {(o.scope, o.nodes[0]): o.role for o in operators if len(o.nodes) == 1}
        self._inside = {(o.scope, name): o.role for o in operators for name in o.nodes if len(o.nodes) > 1}
        self._around: dict[str, str | None] = {}

    def of(self, path: str, node: fx.Node) -> dict[str, Any]:
        """Role, role around, and layer of `node` in the scope at `path`."""
        called = child_path(path, node) if node.op == "call_module" else None
        role: str | None = self._modules.get(called) if called else self._nodes.get((path, node.name))
        is_block = called in self._layers
        if is_block and not mixes(role or ""):  # a list may hold bare attention or MLPs
            role = "block"
        within = self._inside.get((path, node.name)) or self._role_around(path)
        return {"role": role, "is_block": is_block, "within": within, "layer": layer_of(called or path, self._layers)}

    def _role_around(self, path: str) -> str | None:
        """The role of the smallest operator that the module at `path` is or stands in."""
        if path not in self._around:
            role = self._modules.get(path)
            self._around[path] = role or (self._role_around(parent_and_name(path)[0]) if path else None)
        return self._around[path]


def _add_operator(view: nx.MultiDiGraph, operator: Operator) -> None:
    """Add an operator of several nodes as one node: what flows in and out of any of them flows in and out of it."""
    path = operator.scope
    members = {(path, name): None for name in operator.nodes}
    first = view.nodes[path, operator.nodes[0]]
    entering = dict.fromkeys(source for member in members for source in _flows(view.pred[member]))
    leaving = dict.fromkeys(user for member in members for user in _flows(view.succ[member]))
    key = (path, f"{OPERATOR}{operator.path.partition(':')[2]}")
    view.add_node(
        key, op="operator", target=operator.nodes, scope=path, scope_class=first["scope_class"], module_class=None,
        function=None, shape=operator.out_shape, dtype=first["dtype"], flops=operator.flops, order=first["order"],
        role=operator.role, is_block=False, within=None, layer=operator.layer,
    )  # fmt: skip
    view.add_edges_from((source, key, {"kind": "flow"}) for source in entering if source not in members)
    view.add_edges_from((key, user, {"kind": "flow"}) for user in leaving if user not in members)


def _flows(neighbours: Mapping[Key, Mapping[int, Mapping[str, Any]]]) -> Iterator[Key]:
    """The neighbours that an edge of dataflow leads to, operators left out."""
    return (
        key
        for key, edges in neighbours.items()
        if not key[1].startswith(OPERATOR) and any(edge["kind"] == "flow" for edge in edges.values())
    )
