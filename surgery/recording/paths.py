"""Where the calls of a graph lead."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from surgery.recording.scope import Scope


def below(path: str, name: str) -> str:
    """The path of what is called `name` in the module at `path`; either may be ""."""
    return f"{path}.{name}" if path and name else path or name


def is_inside(path: str, outer: str) -> bool:
    """Whether the module at `path` is that at `outer` or stands in it."""
    return not outer or path == outer or path.startswith(f"{outer}.")


def outers(path: str) -> list[str]:
    """The paths of the modules that the one at `path` stands in, the outermost first, and its own; not the root."""
    parts = path.split(".") if path else []
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def child_path(path: str, node: fx.Node) -> str:
    """The path of the module that the `call_module` node `node`, in the scope at `path`, calls."""
    return f"{path}.{node.target}" if path else str(node.target)


def opened(scopes: Mapping[str, Scope], path: str, node: fx.Node) -> str | None:
    """The path of the scope that `node` enters; None if it enters none."""
    inner = child_path(path, node) if node.op == "call_module" else None
    return inner if inner in scopes else None
