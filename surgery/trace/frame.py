"""The graph of one module call while it is being recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from surgery.errors import TraceError
from surgery.graph.guard import require
from surgery.graph.scope import Recording, Signature
from surgery.trace.sizes import Number, Ratio, Size, concrete

SYMBOLS = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.truediv: "/",
    operator.mod: "%", operator.pow: "**", operator.eq: "==", operator.ne: "!=", operator.lt: "<",
    operator.le: "<=", operator.gt: ">", operator.ge: ">=",
}  # fmt: skip


def is_tracked(value: Any) -> bool:
    """Whether `value` is followed through the graph (a tensor or a tracked number) rather than written into it."""
    return isinstance(value, torch.Tensor | Number)


class Frame:
    """Writes one `torch.fx.Graph`.

    Args:
        path: the module's path in the model, "" for the root.
        owned: the model's own tensors by id, see `shadow.owned_tensors`.
    """

    def __init__(self, path: str, owned: dict[int, tuple[str, torch.Tensor]]) -> None:
        self.path = path
        self.graph = fx.Graph()
        self.flops = 0
        self._owned = owned
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Any] = []
        self._known: dict[Any, Any] = {}

    # -- values and nodes ------------------------------------------------------------------------------------------

    def bind(self, value: Any, node: fx.Node) -> None:
        """Let `value` be the result of `node`. The value is kept alive, so that its id stays its own."""
        self._nodes[id(value)] = node
        self._alive.append(value)

    def placeholder(self, name: str, leaf: Any) -> Any:
        """A new input of the graph; numbers come back tracked."""
        node = self.graph.placeholder(name)
        node.meta["text"] = name
        value = leaf
        if not isinstance(leaf, torch.Tensor):
            value = self.track(concrete(leaf))
        self._describe(node, value)
        self.bind(value, node)
        return value

    def node_of(self, value: Any) -> fx.Node:
        """The node that made `value`; one of the module's own tensors becomes a `get_attr` node on first use."""
        node = self._nodes.get(id(value))
        if node is not None:
            return node
        if isinstance(value, Number) and isinstance(value.tape, Frame):
            raise TraceError(
                f"{self._where}: uses a size computed in {value.tape._where} that is not among its arguments; "
                "pass it as an argument, or declare the module a leaf"
            )
        path, _ = self._owned.get(id(value), (None, None))
        if path is None or not path.startswith(self._prefix):
            what = f"a tensor of shape {tuple(value.shape)}" if path is None else f"the tensor {path!r}"
            raise TraceError(
                f"{self._where}: uses {what} that is neither an argument nor a parameter or buffer below it; "
                "pass it as an argument, or register it as a buffer"
            )
        node = self.graph.get_attr(path[len(self._prefix) :])
        self._describe(node, value)
        self.bind(value, node)
        return node

    def is_own(self, value: torch.Tensor) -> bool:
        """Whether `value` is a parameter or buffer, whose sizes are part of the module and thus constant."""
        return id(value) in self._owned

    @property
    def _prefix(self) -> str:
        return f"{self.path}." if self.path else ""

    @property
    def _where(self) -> str:
        return f"module {self.path!r}" if self.path else "the model's forward"

    def argument(self, value: Any) -> Any:
        """`value` as a node's argument: tracked values become nodes, the tracing device becomes the run-time one."""
        if is_tracked(value):
            return self.node_of(value)
        if isinstance(value, torch.device) and value.type == "meta":
            return self._device()
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
        return value

    def _device(self) -> fx.Node:
        """The device that the module runs on, read at run time from its first tensor."""
        if "device" not in self._known:
            anchor = next((n for n in self.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)), None)
            if anchor is None:
                prefix = self._prefix
                own = next((t for p, t in self._owned.values() if p.startswith(prefix)), None)
                if own is None:
                    raise TraceError(f"{self._where}: creates a tensor but has no tensor to take its device from")
                anchor = self.node_of(own)
            self._known["device"] = self.graph.call_function(getattr, (anchor, "device"))
        node: fx.Node = self._known["device"]
        return node

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, kind: str, target: Any, args: Any, kwargs: Any, result: Any, flops: int = 0) -> fx.Node:
        """Write a call whose result, already computed, is `result`; its tensors are followed from here on."""
        node = self.graph.create_node(kind, target, self.argument(args), self.argument(kwargs))
        node.meta["flops"] = flops
        self.flops += flops
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

    def _follow_item(self, node: fx.Node, key: Any, item: Any) -> None:
        if any(map(is_tracked, pytree.tree_leaves(item))):
            self.follow(self.graph.call_function(operator.getitem, (node, key)), item)

    def _describe(self, node: fx.Node, value: Any) -> None:
        node.meta["val"] = value if isinstance(value, torch.Tensor) else pytree.tree_map(concrete, value)
        node.meta.setdefault("text", node.name)

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
            node.meta["text"] = _text(function, nodes)
            return node

        return self._once((function, nodes), function(*map(concrete, args)), write)

    def pin(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)` as a bare value, which the recording from now on depends on (the `Tape` protocol)."""
        value = function(*map(concrete, args))
        nodes = tuple(map(self.argument, args))
        self.guard(function, nodes, value, _text(function, nodes))
        return value

    def guard(self, function: Callable[..., Any], nodes: tuple[Any, ...], value: Any, text: str) -> None:
        """Require at run time that `function(*nodes)` equals `value`."""
        key = ("guard", function, nodes)
        if key not in self._known:
            self._known[key] = True
            self.require(self.graph.call_function(function, nodes), value, text)

    def require(self, node: fx.Node, value: Any, text: str) -> None:
        """Require at run time that the result of `node` equals `value`; `text` says what the node computes."""
        self.graph.call_function(require, (node, value, text))

    def _once(self, key: Any, value: Any, write: Callable[[], fx.Node]) -> Any:
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

    def finish(self, signature: Signature, in_spec: Any, in_leaves: list[Any], result: Any) -> Recording:
        """Close the graph with `result` as its output."""
        out_leaves, out_spec = pytree.tree_flatten(result)
        self.graph.output([self.argument(leaf) for leaf in out_leaves])
        _drop_unused_sizes(self.graph)
        self.graph.lint()
        return Recording(
            signature,
            self.graph,
            in_spec,
            out_spec,
            in_leaves,
            [concrete(leaf) for leaf in out_leaves],
            self.flops,
        )


def _text(function: Callable[..., Any], nodes: tuple[Any, ...]) -> str:
    words = [n.meta["text"] if isinstance(n, fx.Node) else repr(n) for n in nodes]
    if function in SYMBOLS:
        return f"({words[0]} {SYMBOLS[function]} {words[1]})"
    name = getattr(function, "__name__", str(function))
    return f"{name}({', '.join(words)})"


def _drop_unused_sizes(graph: fx.Graph) -> None:
    """Remove reads of sizes and items that nothing uses. Calls on tensors stay: they may draw random numbers."""
    pure = {getattr, operator.getitem, round, int, *SYMBOLS, operator.neg, operator.pos, operator.abs}
    for node in reversed(graph.nodes):
        is_size = node.op == "call_method" and node.target == "size"
        if not node.users and (is_size or node.op == "get_attr" or node.target in pure):
            graph.erase_node(node)
