"""Where the calls of a graph lead."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from surgery.graph.scope import Scope


def child_path(path: str, node: fx.Node) -> str:
    """The path of the module that the `call_module` node `node`, in the scope at `path`, calls."""
    return f"{path}.{node.target}" if path else str(node.target)


def opened(scopes: Mapping[str, Scope], path: str, node: fx.Node) -> str | None:
    """The path of the scope that `node` enters; None if it enters none."""
    inner = child_path(path, node) if node.op == "call_module" else None
    return inner if inner in scopes else None
