"""Copies of models whose weights are others, or in the same memory, and of graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, fx, nn

Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model, new: Callable[[Tensor], Tensor], also: Iterable[nn.Module] = ()) -> Model:
    """A deep copy of `model` whose parameters and buffers hold `new(tensor)` in the place of each tensor.

    What is one tensor in the model is one in the copy; its tensors are always others than the model's, but may hold the
    same memory: whoever moves the model's to another device leaves the copy's where they are.

    Args:
        model: stays as it is.
        new: gives each tensor.
        also: modules that hang on the model without being parts of it; the same is done with their tensors.
    """
    memo: dict[int, Tensor] = {}
    parts: list[nn.Module] = [model, *also]
    for part in parts:
        for parameter in part.parameters():
            memo[id(parameter)] = nn.Parameter(new(parameter.data), parameter.requires_grad)
        for buffer in part.buffers():
            memo[id(buffer)] = new(buffer).detach()
    return copy.deepcopy(model, memo)


def place(tensor: Tensor) -> int:
    """What tells the memory of one tensor from that of others, as long as it lives; also where there are no values."""
    return int(tensor.untyped_storage()._cdata)


def copied_graph(graph: fx.Graph) -> fx.Graph:
    """A copy of `graph`. Arguments are set afterwards, as `fx` searches those that a node is created with for symbols."""
    new, twins = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        twin = twins[node] = new.create_node(node.op, node.target, name=node.name, type_expr=node.type)
        twin.args = fx.node.map_arg(node.args, twins.__getitem__)
        if node.kwargs:
            twin.kwargs = fx.node.map_arg(node.kwargs, twins.__getitem__)
        twin.meta.update(node.meta)
    return new
