"""A site: one place in a traced model where a pattern matched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from surgery.graph import ModelGraph, Operator


@dataclass(frozen=True)
class Site:
    """One match.

    Attributes:
        graph: the traced model.
        operator: the operator that matched.
        scope: the path of the scope whose graph calls it.
        node: that call, a `call_module` node.
    """

    graph: ModelGraph
    operator: Operator
    scope: str
    node: fx.Node

    @property
    def path(self) -> str:
        """The path of the matched module."""
        return self.operator.path

    @property
    def module(self) -> nn.Module:
        """The matched module."""
        return self.graph.model.get_submodule(self.path)

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the call: meta tensors of the traced sizes, numbers and constants."""
        return _values(self.node.args), _values(self.node.kwargs)

    def __str__(self) -> str:
        return f"{self.path} ({self.operator.module_class})"


def _values(arguments: Any) -> Any:
    return _unbox(fx.node.map_arg(arguments, _boxed))


@dataclass(frozen=True)
class _Boxed:
    """Keeps `map_arg` from descending into a value."""

    value: Any


def _boxed(node: fx.Node) -> Any:
    return _Boxed(node.meta["val"])


def _unbox(value: Any) -> Any:
    if isinstance(value, _Boxed):
        return value.value
    if isinstance(value, dict):
        return {key: _unbox(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_unbox, value)) if not isinstance(value, torch.Size) else value
    return value
