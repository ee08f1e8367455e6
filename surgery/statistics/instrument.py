"""A copy of a traced model that tells what its nodes compute while it runs."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from surgery.graph import ModelGraph
from surgery.recording.copying import copied_graph
from surgery.recording.recording import Scope

See = Callable[..., None]


@dataclass(frozen=True)
class Point:
    """Where something is looked at.

    Attributes:
        scope: the path of the scope.
        node: of its graph, before or after which `see` is called.
        see: what looks, called with the values that `args` and `kwargs` name.
        args, kwargs: nodes of the graph and constants.
        before: whether it comes before, as a node may change in place what it reads.
    """

    scope: str
    node: fx.Node
    see: See
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    before: bool = False


def instrumented(graph: ModelGraph, points: Iterable[Point]) -> nn.Module:
    """The traced model with `points` in it; its weights are shared, its outputs the same.

    Raises (when called):
        GuardError: a scope with points in it is called with what `graph` does not cover.
    """
    by_scope: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_scope[point.scope].append(point)
    scopes = {path: _with_points(graph.scopes[path], found) for path, found in by_scope.items()}
    return ModelGraph(graph.model, scopes, _refuse).module()


def _with_points(scope: Scope, points: Iterable[Point]) -> Scope:
    """A copy of `scope` with its first recording, in which the points are."""
    recording = scope.recordings[0]
    graph = copied_graph(recording.graph)
    nodes = {node.name: node for node in graph.nodes}

    def twin(value: Any) -> Any:
        return fx.node.map_arg(value, lambda node: nodes[node.name])

    for point in points:
        at = nodes[point.node.name]
        with graph.inserting_before(at) if point.before else graph.inserting_after(at):
            graph.call_function(_aside(point.see), twin(point.args), twin(point.kwargs))
    return Scope(scope.path, scope.module_class, [dataclasses.replace(recording, graph=graph)], scope.params)


def _aside(see: See) -> See:
    """`see` without gradients, and in the precision that it asks for itself."""

    def aside(*args: Any, **kwargs: Any) -> None:
        device = next((x.device.type for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)), "cpu")
        with torch.no_grad(), torch.autocast(device, enabled=False):
            see(*args, **kwargs)

    return aside


def _refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("what is observed is not recorded again")
