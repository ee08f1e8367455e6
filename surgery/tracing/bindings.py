"""Which node of a graph made which value, while the graph is being recorded."""

from __future__ import annotations

import copy
import operator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from surgery.errors import TraceError
from surgery.recording.calls import Array, array_of
from surgery.recording.objects import is_object, made
from surgery.recording.paths import is_inside, names_of, relative
from surgery.recording.skeleton import Attribute, Owned, owned_parts
from surgery.recording.torch_private import pytree
from surgery.tracing.devices import Devices
from surgery.tracing.sizes import Number, concrete
from surgery.tracing.stand_ins import is_followed_inside, is_tracked


class Bindings:
    """The values that a module's forward computes on, and the nodes that stand for them.

    Args:
        path: the module's path in the model, "" for the root.
        owned: the model's own tensors and modules by id, see `skeleton.owned_parts`.
        devices: where the user's tensors are.
    """

    def __init__(self, path: str, owned: dict[int, Owned], devices: Devices) -> None:
        self.path = path
        self.graph = fx.Graph()
        self._owned = owned
        self._where_is = devices
        self._nodes: dict[int, fx.Node] = {}
        self._alive = list[Any]()
        self._given: dict[int, tuple[fx.Node, Owned]] = {}
        self._devices: dict[int, fx.Node] = {}

    def bind(self, value: Any, node: fx.Node) -> None:
        """Let `value` be the result of `node`. The value is kept alive, so that its id stays its own."""
        self._nodes[id(value)] = node
        self._alive.append(value)
        if isinstance(value, nn.Module):
            self._given |= {key: (node, part) for key, part in owned_parts(value).items()}

    def gives(self, module: nn.Module) -> bool:
        """Whether `module` is an argument, or is in one."""
        return id(module) in self._nodes or id(module) in self._given

    def node_of(self, value: Any) -> fx.Node:
        """The node that made `value`; one of the module's own tensors becomes a `get_attr` node on first use."""
        node = self._nodes.get(id(value))
        if node is not None:
            return node
        if isinstance(value, Number) and isinstance(value.tape, Bindings):
            raise TraceError(
                f"{self._where}: uses a size computed in {value.tape._where} that is not among its arguments; "
                "pass it as an argument, or declare the module a leaf"
            )
        node, owned = self._given[id(value)] if id(value) in self._given else self._own_part(value)
        for name in names_of(owned.path) if id(value) in self._given else ():
            node = self.graph.call_function(getattr, (node, name))
        for key in owned.keys:
            read = getattr if isinstance(key, Attribute) else operator.getitem
            node = self.graph.call_function(read, (node, str(key) if read is getattr else key))
        self._describe(node, value)
        self.bind(value, node)
        return node

    def _own_part(self, value: Any) -> tuple[fx.Node, Owned]:
        """The node that reads the attribute of the module which is, or holds, `value`."""
        owned = self._owned.get(id(value))
        if owned is not None and is_inside(owned.path, self.path) and owned.path != self.path:
            return self.graph.get_attr(relative(owned.path, self.path)), owned
        kind = f"tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        what = repr(owned.path) if owned else f"a {kind}"
        raise TraceError(
            f"{self._where}: uses {what}, that is neither an argument nor below it; pass it as an argument, or register "
            "it as a buffer"
        )

    def is_input(self, value: torch.Tensor) -> bool:
        """Whether `value` is an argument, whose rank and dtype the signature holds, or the module's own."""
        return self.is_own(value) or self.node_of(value).op == "placeholder"

    def is_own(self, value: torch.Tensor) -> bool:
        """Whether `value` is a parameter or buffer, whose sizes are part of the module and thus constant."""
        return id(value) in self._owned

    @property
    def _where(self) -> str:
        return f"module {self.path!r}" if self.path else "the model's forward"

    def argument(self, value: Any) -> Any:
        """`value` as a node's argument: tracked values become nodes, the tracing device becomes the run-time one."""
        if is_tracked(value):
            return self.node_of(value)
        if isinstance(value, torch.device):
            return self.device() if value is self._where_is.main else self._devices.get(id(value), value)
        if isinstance(value, slice):
            return slice(*map(self.argument, (value.start, value.stop, value.step)))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.argument, value))
        if isinstance(value, tuple):
            return tuple(map(self.argument, value))
        if isinstance(value, list):
            return [self.argument(item) for item in value]
        if isinstance(value, dict):
            return {key: self.argument(item) for key, item in value.items()}
        if isinstance(value, np.ndarray):
            return self.graph.call_function(array_of, (Array(value),))  # type: ignore[arg-type]
        return self._object(value) if is_object(value) else value

    def _object(self, value: Any) -> Any:
        """An object that the forward made or found: what it holds now, as the forward may change it later."""
        if not is_followed_inside(value):
            return copy.copy(value) if vars(value) else value
        return self.graph.call_function(made, (type(value), self.argument(vars(value))))  # type: ignore[arg-type]

    def device(self) -> fx.Node:
        """The device that the module runs on: its argument, or at run time that of its first tensor."""
        main = id(self._where_is.main)
        if main not in self._devices:
            self._devices[main] = self.graph.call_function(getattr, (self._anchor(), "device"))
        return self._devices[main]

    def _anchor(self) -> fx.Node:
        """A tensor on the device that the module runs on."""
        known: fx.Node | None = next((n for n in self.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)), None)
        if known is not None:
            return known
        own = next((o.tensor for o in self._owned.values() if self._is_tensor_below(o)), None)
        if own is None:
            raise TraceError(f"{self._where}: creates a tensor but has no tensor to take its device from")
        return self.node_of(own)

    def _is_tensor_below(self, owned: Owned) -> bool:
        return isinstance(owned.tensor, torch.Tensor) and is_inside(owned.path, self.path)

    def _describe(self, node: fx.Node, value: Any) -> None:
        """Note the value of `node`, by which analyses know its shape, and how messages call it."""
        node.meta["val"] = value if isinstance(value, torch.Tensor) else pytree.tree_map(concrete, value)
        node.meta.setdefault("text", node.name)
