"""The graph of one module call while it is being recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.attention.flex_attention import BlockMask

from surgery.errors import TraceError, first_line
from surgery.recording.attribute_change import AttributeChange
from surgery.recording.containers import Container
from surgery.recording.describe import Description
from surgery.recording.guard import device_seen, layout, require
from surgery.recording.objects import Followed, is_object, origin_of
from surgery.recording.recording import Recording
from surgery.recording.signature import Signature
from surgery.recording.skeleton import Owned
from surgery.recording.state import attribute_seen
from surgery.recording.torch_private import fx_globals, pytree
from surgery.tracing.arithmetic import drop_unused_sizes, tells_floats, text_of
from surgery.tracing.bindings import Bindings
from surgery.tracing.devices import Devices
from surgery.tracing.effects import has_effects
from surgery.tracing.lent import LentContainers
from surgery.tracing.sizes import Number, Ratio, Size, concrete
from surgery.tracing.stand_ins import is_followed_inside, is_tracked, stand_in


class Frame(Bindings):
    """Writes one `torch.fx.Graph`.

    Args:
        path: the module's path in the model, "" for the root.
        owned: the model's own tensors and modules by id, see `skeleton.owned_parts`.
        devices: where the user's tensors are.
        is_kept: whether the graph is of use; if not, only the sizes of its results are, so values may be guessed.
    """

    def __init__(self, path: str, owned: dict[int, Owned], devices: Devices, is_kept: bool = True) -> None:
        super().__init__(path, owned, devices)
        self.is_kept = is_kept
        self.flops = 0
        self.has_effects = False
        self.generators = list[torch.Generator]()
        self._known: dict[Any, Any] = {}
        self._lent = LentContainers(self._where)
        self.failure: Exception | None = None
        self._has_late_guards = False

    # -- inputs ----------------------------------------------------------------------------------------------------

    def placeholder(self, name: str, leaf: Any, of_model: bool) -> Any:
        """A new input of the graph; numbers come back tracked. `of_model` says that no user gave it, but a module."""
        # What generated code calls by such a name must not be shadowed.
        node = self.graph.placeholder(f"{name}_" if name in fx_globals else name)
        node.meta["text"] = name
        if isinstance(leaf, torch.device):
            self._devices.setdefault(id(leaf), node)
            self._guard_device(node, leaf, name)
            return leaf
        value = leaf if isinstance(leaf, torch.Tensor | BlockMask | nn.Module) else self._own(leaf, of_model)
        self._describe(node, value)
        self.bind(value, node)
        return value

    def _own(self, leaf: Any, of_model: bool) -> Any:
        """A number or an object of the caller as this frame follows it; only objects of the user may be changed."""
        if is_object(origin_of(leaf)):
            return stand_in(leaf, self, fixed=of_model and not isinstance(leaf, Followed))
        return self.track(concrete(leaf))

    def lend(self, text: str, container: Container, path: tuple[Any, ...] = ()) -> None:
        """Remember what is in `container`, which the model gets.

        If it changes, the caller of the graph can find it by `path` among the arguments; () forbids to change it.
        """
        self._lent.lend(text, container, path)

    def device_of(self, tensor: torch.Tensor) -> torch.device:
        """Where `tensor` is, as the forward asks for it; it may do anything with that, so the recording holds there."""
        device, source = self._where_is.of(tensor, self._owned.get(id(tensor))), self.node_of(tensor)
        self._guard_device(source, device, f"{source.meta['text']}.device")
        return device

    def _guard_device(self, node: fx.Node, device: torch.device, text: str) -> None:
        self.guard(device_seen, (node, str(device)), str(device), text)

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(
        self, kind: str, target: Any, args: Any, kwargs: Any, result: Any, flops: int = 0, guarded: bool = False
    ) -> fx.Node:
        """Write a call whose result, already computed, is `result`; its tensors are followed from here on.

        If `guarded`, the layout of the result (how many items, which of them None) is required at run time.
        """
        node = self.graph.create_node(kind, target, self.argument(args), self.argument(kwargs))
        node.meta["flops"] = flops
        self.flops += flops
        self.has_effects = self.has_effects or has_effects(node)
        if guarded:
            self.guard(layout, (node,), layout(concrete(result)), f"the layout of {node.name}")
        self.follow(node, result)
        return node

    def follow(self, node: fx.Node, result: Any) -> None:
        """Bind `result`, or the items of a tuple, list or dict, to `node`."""
        self._describe(node, result)
        if is_tracked(result):
            self.bind(result, node)
        elif isinstance(result, tuple | list):
            for index, item in enumerate(result):
                self._follow_item(node, index, item)
        elif isinstance(result, dict):
            for key, item in result.items():
                self._follow_item(node, key, item)
        elif is_object(result):
            self._follow_object(node, result)

    def _follow_object(self, node: fx.Node, result: Any) -> None:
        """Follow the attributes of an object that a module made; those that are constants are guarded."""
        attributes = self.graph.call_function(vars, (node,))
        text = f"the attributes of {node.name}"
        self.guard(layout, (attributes,), layout(pytree.tree_map(concrete, vars(result))), text)
        self.follow(attributes, vars(result))

    def _follow_item(self, node: fx.Node, key: Any, item: Any) -> None:
        """Follow an item of a result, unless there is nothing in it to follow."""
        if is_object(item) or is_followed_inside(item):
            self.follow(self.graph.call_function(operator.getitem, (node, key)), item)

    # -- sizes -----------------------------------------------------------------------------------------------------

    def size(self, tensor: torch.Tensor, dim: int) -> Any:
        """`tensor.shape[dim]`, tracked; a constant if `tensor` is the module's own."""
        if self.is_own(tensor):
            return tensor.shape[dim]
        source = self.node_of(tensor)
        dim %= tensor.dim()

        def write() -> fx.Node:
            node = self.graph.call_method("size", (source, dim))
            node.meta["text"] = f"{source.meta['text']}.shape[{dim}]"
            return node

        return self._once(("size", source, dim), tensor.shape[dim], write)

    def compute(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)` on numbers, written to the graph and tracked (the `Tape` protocol)."""
        nodes = tuple(map(self.argument, args))

        def write() -> fx.Node:
            node = self.graph.call_function(function, nodes)
            node.meta["text"] = text_of(function, nodes)
            node.meta["floats"] = any(map(tells_floats, nodes))
            return node

        return self._once((function, nodes), function(*map(concrete, args)), write)

    def pin(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)` as a bare value, which the recording from now on depends on (the `Tape` protocol)."""
        value = function(*map(concrete, args))
        nodes = tuple(map(self.argument, args))
        if any(map(tells_floats, nodes)):
            raise TraceError(
                f"a branch depends on floating-point values of a tensor ({text_of(function, nodes)}), so no graph holds "
                "for others; write it with torch.where, or declare the module that does it a leaf"
            )
        self.guard(function, nodes, value, text_of(function, nodes))
        return value

    def guard(self, function: Callable[..., Any], nodes: tuple[Any, ...], value: Any, text: str) -> None:
        """Require at run time that `function(*nodes)` equals `value`."""
        key = ("guard", function, nodes)
        if key not in self._known:
            self._known[key] = True
            self.require(self.graph.call_function(function, nodes), value, text)

    def guard_attributes(self, tensor: torch.Tensor, *names: str) -> None:
        """Require at run time that attributes of `tensor` are what they are now."""
        source = self.node_of(tensor)
        for name in names:
            self.guard(getattr, (source, name), getattr(tensor, name), f"{source.meta['text']}.{name}")

    def guard_given(self, module: nn.Module, name: str, seen: Description) -> None:
        """Require at run time that an attribute of a module among the arguments is what was `seen` of it."""
        source = self.node_of(module)
        self.guard(attribute_seen, (source, name), seen, f"{source.meta['text']}.{name}")

    def require(self, node: fx.Node, value: Any, text: str) -> None:
        """Require at run time that the result of `node` equals `value`; `text` says what the node computes."""
        self._has_late_guards = self._has_late_guards or self.has_effects
        self.graph.call_function(require, (node, value, text))

    def read(self, node: fx.Node, value: Any) -> Any:
        """`value`, the result of `node`, for the model's use: numbers are tracked, a truth value becomes a guard."""
        node.meta["val"] = value
        if isinstance(value, bool):
            self.require(node, value, node.meta["text"])
            return value
        if isinstance(value, list):
            return [self.read(self._item_of(node, i), item) for i, item in enumerate(value)]
        tracked = self.track(value)
        self.bind(tracked, node)
        return tracked

    def _item_of(self, node: fx.Node, index: int) -> fx.Node:
        item = self.graph.call_function(operator.getitem, (node, index))
        item.meta.update(text=f"{node.meta['text']}[{index}]", floats=tells_floats(node))
        return item

    def _once(self, key: Any, value: Any, write: Callable[[], fx.Node]) -> Any:
        """The tracked value for `key`, whose node is written at its first use."""
        if key not in self._known:
            node = write()
            tracked = self.track(value)
            node.meta["val"] = value
            self.bind(tracked, node)
            self._known[key] = tracked
        return self._known[key]

    def track(self, value: Any) -> Number:
        """`value` as a tracked number of this frame; the caller binds it to a node."""
        return Ratio(value, self) if isinstance(value, float) else Size(int(value), self)

    # -- the end ---------------------------------------------------------------------------------------------------

    def require_success(self) -> None:
        """Raise TraceError, at the line that failed, if the forward has caught an error of what is recorded."""
        if self.failure is not None:
            reason = first_line(self.failure)
            raise TraceError(
                f"the forward catches an error ({reason}), so no graph holds where there is none; let it ask for the "
                "sizes instead, or declare the module a leaf"
            ).with_traceback(self.failure.__traceback__)

    def finish(
        self,
        signature: Signature,
        in_spec: Any,
        in_leaves: list[Any],
        result: Any,
        kept: list[tuple[AttributeChange, list[Any]]],
    ) -> Recording:
        """Close the graph with `result` as its output, and what is `kept` in modules."""
        out_leaves, out_spec = pytree.tree_flatten(result)
        changes = list(self._lent.changes())
        new_items = [leaf for _, leaves in (*changes, *kept) for leaf in leaves]
        self.graph.output([self.argument(leaf) for leaf in (*out_leaves, *new_items)])
        drop_unused_sizes(self.graph)
        self.graph.lint()
        return Recording(
            signature,
            self.graph,
            in_spec,
            out_spec,
            in_leaves,
            [origin_of(concrete(leaf)) for leaf in out_leaves],
            self.flops,
            has_effects=self.has_effects,
            has_late_guards=self._has_late_guards,
            changes=tuple(change for change, _ in changes),
            kept=tuple(change for change, _ in kept),
        )
