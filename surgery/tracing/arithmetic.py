"""Nodes that compute on numbers: how they read in messages, and which of them a graph can do without."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

SYMBOLS = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.truediv: "/",
    operator.mod: "%", operator.pow: "**", operator.eq: "==", operator.ne: "!=", operator.lt: "<",
    operator.le: "<=", operator.gt: ">", operator.ge: ">=",
}  # fmt: skip
PURE = {getattr, operator.getitem, round, int, *SYMBOLS, operator.neg, operator.pos, operator.abs}


def text_of(function: Callable[..., Any], nodes: tuple[Any, ...]) -> str:
    """`function(*nodes)` as a person would write it, e.g. `(hidden_states.shape[1] // 2)`."""
    words = [n.meta["text"] if isinstance(n, fx.Node) else repr(n) for n in nodes]
    if function in SYMBOLS:
        return f"({words[0]} {SYMBOLS[function]} {words[1]})"
    name = getattr(function, "__name__", str(function))
    return f"{name}({', '.join(words)})"


def tells_floats(node: Any) -> bool:
    """Whether the number that `node` gives was read from floating-point data."""
    return isinstance(node, fx.Node) and bool(node.meta.get("floats"))


def drop_unused_sizes(graph: fx.Graph) -> None:
    """Remove reads of sizes and items that nothing uses. Calls on tensors stay: they may draw random numbers."""
    for node in reversed(graph.nodes):
        is_size = node.op == "call_method" and node.target == "size"
        if not node.users and (is_size or node.op == "get_attr" or node.target in PURE):
            graph.erase_node(node)
