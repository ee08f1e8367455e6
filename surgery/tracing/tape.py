"""What values that are followed need of the graph in which they are followed; `Frame` is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import fx


class Tape(Protocol):
    """Where what is computed on sizes, and what is read of objects, is written."""

    graph: fx.Graph
    has_effects: bool

    def compute(self, function: Callable[..., Any], *args: Any) -> Any:
        """Record `function(*args)` and return its tracked result."""

    def pin(self, function: Callable[..., Any], *args: Any) -> Any:
        """Evaluate `function(*args)` now and guard that it gives the same result at run time."""

    def track(self, value: Any) -> Any:
        """`value` as a tracked number."""

    def node_of(self, value: Any) -> fx.Node:
        """The node that made `value`."""

    def argument(self, value: Any) -> Any:
        """`value` as the argument of a node."""

    def follow(self, node: fx.Node, result: Any) -> None:
        """Let `result`, or its items, be the result of `node`."""

    def guard(self, function: Callable[..., Any], nodes: tuple[Any, ...], value: Any, text: str) -> None:
        """Require at run time that `function(*nodes)` equals `value`."""

    def lend(self, text: str, container: Any, path: tuple[Any, ...] = ()) -> None:
        """Remember what is in `container`, which the model gets."""
