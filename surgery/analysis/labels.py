"""Where features come from: they are labelled, and the code in question moves the labels as it would move features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from surgery.analysis.numbers import Number
from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import (
    ACTIVATIONS,
    ELEMENTWISE,
    LAYOUT,
    SPLITS,
    is_activation,
    is_glu,
    is_linear,
    is_module,
    name_of,
    shape_of,
    tensors,
)
from surgery.analysis.small_run import SmallRun, evaluated, is_tensor, is_written
from surgery.recording.torch_private import pytree

NOTHING, FIXED = -1, -2
"""Labels of what comes from no linear map: of one number for all features, and of features of their own."""

_SAME = {"to", "float", "type", "type_as", "half", "bfloat16", "contiguous", "clone", "dropout"}
_BY_FEATURE = ACTIVATIONS | ELEMENTWISE | {"pow", "square", "clamp", "neg", "abs", "exp"}
_MOVING = {*LAYOUT, *SPLITS, "cat", "concat", "stack", "narrow", "select", "movedim", "swapaxes", "unsafe_chunk",
           "unsafe_split", "flip", "roll"} - _SAME  # fmt: skip


@dataclass(frozen=True, eq=False)
class Labels:
    """What a tensor's numbers, or those of several tensors, come from.

    Attributes:
        layers: in each at most one label of each number.
        are_others: whether none comes from a linear map.
    """

    layers: tuple[Any, ...]
    are_others: bool = False

    def at(self, layer: int) -> Any:
        """The labels in a layer; where there are fewer of these, none."""
        if layer < len(self.layers):
            return self.layers[layer]
        return pytree.tree_map_only(Tensor, lambda t: torch.full_like(t, NOTHING), self.layers[0])

    def of_features(self) -> Tensor | None:
        """The labels of each feature, (L, D); None if they differ from token to token."""
        rows = torch.stack([layer.reshape(-1, layer.shape[-1]) for layer in self.layers])
        return rows[:, 0] if bool((rows == rows[:, :1]).all()) else None

    def tell(self, wanted: Tensor) -> bool:
        """Whether one of the labels is `wanted`, which says so of each label that there is."""
        leaves = () if self.are_others else pytree.tree_leaves(self.layers)
        return any(bool(wanted[t[t >= 0]].any()) for t in leaves)


def is_moving(node: fx.Node) -> bool:
    """Whether `node` only gives numbers again, at other places."""
    return name_of(node) in _MOVING


def _is_same(node: fx.Node) -> bool:
    """Whether `node` gives the same numbers at the same places."""
    return name_of(node) in _SAME or is_module(node, (nn.Dropout, nn.Identity))


class LabelRun(SmallRun):
    """Labels of the features of linear maps, and what becomes of them.

    Args:
        flow: of the model.
        prefix: the traced sizes of samples and tokens.
        label: the labels of the features that a linear map gives, (D,).
        numbers: whole numbers that take the places of others.

    Attributes:
        stopped: what was met and is not understood.
    """

    few_sizes = (1, 2, 1, 2)  # labels take time, and one sample tells as much as two

    def __init__(
        self, flow: Flow, prefix: tuple[int, ...], label: Callable[[ScopedNode], Tensor], numbers: Iterable[Number] = ()
    ) -> None:
        super().__init__(flow, prefix, numbers)
        self._label = label
        self.stopped: list[ScopedNode] = []

    def reach(self, place: ScopedNode) -> Labels:
        """The labels at `place`; what leads to it is found from above, as ways may be long."""
        leading = self._flow.walk([place], lambda p: is_linear(p[1]) or not _is_followed(p, self._flow))
        for each in sorted(leading, key=self._flow.order.__getitem__):
            self.value(each)
        found: Labels = self.value(place)
        return found

    def given(self, place: ScopedNode) -> Labels | None:
        """New labels of a linear map; those of what labels cannot follow, so that nothing above is looked at."""
        node = place[1]
        if is_linear(node):
            shape = self.few(shape_of(node)[:-1])
            label = self._label(place)
            return Labels((label.expand(*shape, len(label)),))
        if not _is_followed(place, self._flow):
            return self._stop(place)
        above = self._flow.above(place)
        is_end = node.op == "get_attr" or (node.op == "placeholder" and len(above) != 1)
        return self._others(node) if is_end and is_tensor(node) else None

    def _others(self, node: fx.Node) -> Labels:
        """Those of values that come from no linear map."""

        def label(tensor: Tensor) -> Tensor:
            shape = self.few(tensor.shape)
            return torch.tensor(FIXED if shape and shape[-1] > 1 else NOTHING).expand(shape)

        return Labels((pytree.tree_map_only(Tensor, label, node.meta["val"]),), are_others=True)

    def call(self, place: ScopedNode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the node makes of the labels."""
        node = place[1]
        read = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Labels)]
        if not tensors(node):
            return evaluated(node, *_layer((args, kwargs), 0))
        if all(labels.are_others for labels in read):
            return self._others(node)
        if is_written(node):
            return self._stop(place)
        if _is_same(node):
            return read[0]
        try:
            if is_moving(node):
                return _moved(node, args, kwargs, read)
            return _together(_halves(node, read[0]) if is_glu(node) else read)
        except Exception:  # of few samples and tokens it may fail, as whatever is not understood
            return self._stop(place)

    def _stop(self, place: ScopedNode) -> Labels:
        if place not in self.stopped:
            self.stopped.append(place)
        return self._others(place[1])


def _is_followed(place: ScopedNode, flow: Flow) -> bool:
    """Whether a node does something that labels can follow."""
    node = place[1]
    if not tensors(node) or node.op in ("placeholder", "get_attr") or flow.entered(place) is not None:
        return True
    return name_of(node) in _BY_FEATURE | _MOVING or _is_same(node) or is_activation(node)


def _layer(values: Any, layer: int) -> Any:
    """One layer of all labels among `values`."""
    return pytree.tree_map_only(Labels, lambda labels: labels.at(layer), values)


def _moved(node: fx.Node, args: Any, kwargs: Any, read: Sequence[Labels]) -> Labels:
    """The node's own function moves the labels."""
    count = max(len(labels.layers) for labels in read)
    return _distinct([evaluated(node, *_layer((args, kwargs), layer)) for layer in range(count)])


def _halves(node: fx.Node, labels: Labels) -> list[Labels]:
    """The gated features and their gates."""
    if 2 * shape_of(node)[-1] != shape_of(node.all_input_nodes[0])[-1]:
        raise ValueError(f"{node} halves another axis")
    halves = [layer.chunk(2, -1) for layer in labels.layers]
    return [Labels(half) for half in zip(*halves, strict=True)]


def _together(read: Sequence[Labels]) -> Labels:
    """Numbers that are computed from one of each."""
    layers = [layer for labels in read for layer in labels.layers]
    return _distinct(torch.broadcast_tensors(*layers))  # type: ignore[no-untyped-call]


def _distinct(layers: Sequence[Any]) -> Labels:
    """Each layer once, without those that tell nothing."""
    kept: list[Any] = []
    for layer in layers:
        leaves = pytree.tree_leaves(layer)
        tells = any(bool((leaf != NOTHING).any()) for leaf in leaves)
        alike = (pytree.tree_leaves(other) for other in kept)
        if tells and not any(all(map(torch.equal, leaves, other)) for other in alike):
            kept.append(layer)
    return Labels(tuple(kept or layers[:1]))


def in_order(features: Tensor) -> Tensor:
    """The labels of each feature, (L, D), in order and once each, in as few rows as it takes."""
    ordered = features.sort(0).values
    ordered[1:][ordered[1:] == ordered[:-1]] = NOTHING  # one that is read twice, as in x * x
    ordered = ordered.sort(0).values
    return ordered[(ordered != NOTHING).any(1)]
