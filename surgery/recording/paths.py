"""Paths of modules, as `nn.Module.named_modules` gives them: names joined by dots, "" being the root.

What is no module of its own has the path of its scope, a colon, and the name of a node there.
"""

from __future__ import annotations

from collections.abc import Container

from torch import fx, nn


def below(path: str, name: str) -> str:
    """The path of what is called `name` in the module at `path`; either may be ""."""
    return f"{path}.{name}" if path and name else path or name


def parent_and_name(path: str) -> tuple[str, str]:
    """The path of the module that the one at `path` stands in, and its name there."""
    parent, _, name = path.rpartition(".")
    return parent, name


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Let the module at `path` in `model` be `module`."""
    parent, name = parent_and_name(path)
    model.get_submodule(parent).register_module(name, module)


def names_of(path: str) -> tuple[str, ...]:
    """The names that lead from the root to the module at `path`."""
    return tuple(path.split(".")) if path else ()


def outers(path: str) -> list[str]:
    """The paths of the modules that the one at `path` stands in, the outermost first, and its own; not the root."""
    names = names_of(path)
    return [".".join(names[:depth]) for depth in range(1, len(names) + 1)]


def is_inside(path: str, outer: str) -> bool:
    """Whether the module at `path` is that at `outer` or stands in it."""
    return not outer or path == outer or path.startswith(f"{outer}.")


def relative(path: str, outer: str) -> str:
    """`path` as seen from the module at `outer`, which it is inside; "" if it is that module."""
    return path.removeprefix(outer).removeprefix(".")


def module_part(path: str) -> str:
    """Of the path of a module or node, that of the module: itself, or what the node stands in."""
    return path.partition(":")[0]


def child_path(path: str, node: fx.Node) -> str:
    """The path of the module that the `call_module` node `node`, in the scope at `path`, calls."""
    return below(path, str(node.target))


def opened(scopes: Container[str], path: str, node: fx.Node) -> str | None:
    """The path of the scope that `node`, in the scope at `path`, enters; None if it enters none."""
    inner = child_path(path, node) if node.op == "call_module" else None
    return inner if inner in scopes else None
