"""A site: one place in a traced model where a pattern matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from surgery.analysis.arguments import bound_arguments
from surgery.analysis.readers import items_of
from surgery.graph import ModelGraph, Operator
from surgery.graph.view import OPERATOR, Key
from surgery.recording.paths import child_path, module_part


@dataclass(frozen=True)
class Item:
    """One matched node of the view.

    Attributes:
        graph: the traced model.
        key: of the node.
    """

    graph: ModelGraph
    key: Key

    @property
    def scope(self) -> str:
        """The path of the scope whose graph it stands in."""
        return self.key[0]

    @cached_property
    def nodes(self) -> tuple[fx.Node, ...]:
        """Its fx nodes: several, if it is an operator made of such."""
        names = self.graph.operator_at(self.key).nodes if self.is_subgraph else (self.key[1],)
        return tuple(self.graph.node(self.scope, name) for name in names)

    @property
    def node(self) -> fx.Node:
        """Its fx node, or the first of them."""
        return self.nodes[0]

    @property
    def is_subgraph(self) -> bool:
        """Whether it is an operator made of several nodes."""
        return self.key[1].startswith(OPERATOR)

    @property
    def is_module(self) -> bool:
        """Whether it is the call of a module."""
        return not self.is_subgraph and self.node.op == "call_module"

    @cached_property
    def path(self) -> str:
        """The path of the module that it calls; else that of its scope, a colon, and the name of its first node."""
        return child_path(self.scope, self.node) if self.is_module else f"{self.scope}:{self.node.name}"

    @property
    def module(self) -> nn.Module:
        """The module that it calls."""
        return self.graph.model.get_submodule(self.path)

    @cached_property
    def operator(self) -> Operator:
        """It as an operator: role, sizes and costs."""
        return self.graph.operator_at(self.key)

    @cached_property
    def part(self) -> Operator:
        """It as an operator, sizes and costs only: the role of a function is not asked for."""
        return self.graph.part_at(self.key)

    @property
    def layer(self) -> int | None:
        """The number of the block that it is or stands in."""
        return self.graph.layer_of(self.path)

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the call: meta tensors of the traced sizes, numbers and constants."""
        return traced(self.node.args), traced(self.node.kwargs)

    @property
    def result(self) -> Any:
        """Its result as traced; of several nodes, that of the last which others read."""
        if not self.is_subgraph:
            return self.node.meta["val"]
        inside = set(self.nodes)
        return next(n.meta["val"] for n in reversed(self.nodes) if set(n.users) - inside)

    def results(self, items: Sequence[int | str]) -> list[fx.Node]:
        """The fx nodes that hold its result, or what `items` lead to in it."""
        return items_of(self.node, items)

    @cached_property
    def bound(self) -> dict[str, Any]:
        """The arguments by name, as nodes and constants; see `surgery.analysis.arguments`."""
        return bound_arguments(self.graph.scopes, self.scope, self.nodes)


@dataclass(frozen=True)
class Site:
    """One match: its nodes by the names that the pattern gives them, `site["b"]`.

    What it says without a name is that of the first one.
    """

    graph: ModelGraph
    items: dict[str, Item]

    def __getitem__(self, name: str) -> Item:
        return self.items[name]

    @property
    def first(self) -> Item:
        """The first matched node."""
        return next(iter(self.items.values()))

    @cached_property
    def path(self) -> str:
        """The paths of what matched, joined by " + "; of nodes that are no modules only if there are no others."""
        paths = [item.path for item in self.items.values() if item.is_module or item.is_subgraph]
        return " + ".join(paths or [item.path for item in self.items.values()])

    @property
    def scope(self) -> str:
        """The path of the scope whose graph the nodes stand in."""
        return self.first.scope

    @property
    def unit(self) -> str:
        """The path of the module that the first one calls, else of the one that it stands in."""
        return module_part(self.path) if len(self.items) == 1 else self.scope

    @property
    def operator(self) -> Operator:
        """The first one as an operator."""
        return self.first.operator

    @property
    def module(self) -> nn.Module:
        """The module that the first one calls."""
        return self.first.module

    @property
    def node(self) -> fx.Node:
        """The fx node of the first one."""
        return self.first.node

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of the first one's call: meta tensors of the traced sizes, numbers and constants."""
        return self.first.arguments

    @property
    def result(self) -> Any:
        """The result of the first one, as traced."""
        return self.first.result

    def __str__(self) -> str:
        return self.path


def traced(arguments: Any) -> Any:
    """`arguments` of a node, with the traced value for each node in them."""
    return _unbox(fx.node.map_arg(arguments, _boxed))


@dataclass(frozen=True)
class _Boxed:
    """Keeps `map_arg` from descending into a value."""

    value: Any


def _boxed(node: fx.Node) -> Any:
    return _Boxed(node.meta.get("val"))


def _unbox(value: Any) -> Any:
    if isinstance(value, _Boxed):
        return value.value
    if isinstance(value, dict):
        return {key: _unbox(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_unbox, value)) if not isinstance(value, torch.Size) else value
    return value
