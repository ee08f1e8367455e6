"""Which sizes of a tensor grow with those of what the module around it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.small_run import SmallRun, evaluated
from surgery.recording.paths import child_path
from surgery.recording.skeleton import skeleton

SAMPLES, TOKENS = 0, 1
"""Axes of what a module is given, one of which has one more."""


def grows(flow: Flow, model: nn.Module, root: str, place: ScopedNode, axis: int) -> bool:
    """Whether the tensor at `place` has another size along `axis` if the scope at `root` around it is given more.

    More is one more sample or token. False also if it cannot be told, as where what is inside takes no more.
    """
    traced = place[1].meta["val"].shape[axis]
    return any(_size(flow, model, root, place, axis, more) not in (None, traced) for more in (SAMPLES, TOKENS))


def _size(flow: Flow, model: nn.Module, root: str, place: ScopedNode, axis: int, more: int) -> int | None:
    try:
        with torch.no_grad():
            found: Tensor = _More(flow, model, root, more).value(place)
        return found.shape[axis]
    except Exception:  # whatever keeps it from being run, it is not known
        return None


class _More(SmallRun):
    """Runs what leads from the arguments of a scope to a place on meta tensors, with one more along an axis."""

    def __init__(self, flow: Flow, model: nn.Module, root: str, axis: int) -> None:
        super().__init__(flow, prefix=())
        self._model, self._root, self._axis = model, root, axis
        given = [leaf for node in flow.scopes[root].graph.find_nodes(op="placeholder") for leaf in _leaves(node)]
        self._size = next(tensor.shape[axis] for tensor in given if tensor.dim() > 2)

    def given(self, place: ScopedNode) -> Any:
        """The arguments of the scope."""
        path, node = place
        if path != self._root or node.op != "placeholder":
            return None
        return pytree.tree_map_only(Tensor, self._longer, node.meta["val"])

    def _longer(self, tensor: Tensor) -> Tensor:
        """What has as many along the axis as the stream, with one more."""
        if tensor.dim() < 2 + self._axis or tensor.shape[self._axis] != self._size:
            return tensor
        sizes = list(tensor.shape)
        sizes[self._axis] += 1
        return tensor.new_empty(sizes)

    def call(self, place: ScopedNode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a function or a module gives."""
        path, node = place
        if node.op != "call_module":
            return evaluated(node, args, kwargs)
        return skeleton(self._model.get_submodule(child_path(path, node)))(*args, **kwargs)


def _leaves(node: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]
