"""The arguments of a node by name, as its callee knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from surgery.analysis.roles.primitives import inputs_of
from surgery.recording.binding import call_of, named
from surgery.recording.paths import opened
from surgery.recording.recording import Scope


def bound_arguments(scopes: Mapping[str, Scope], path: str, nodes: Sequence[fx.Node]) -> dict[str, Any]:
    """What `nodes` of the scope at `path` are called with, as nodes and constants.

    Of a module by the names of its forward's parameters, where that takes `*args` by position, "0", and by keyword, as of
    a function; of several nodes the one tensor that flows in, as "input", if it is one.
    """
    if len(nodes) > 1:
        entering = dict.fromkeys(s for node in nodes for s in inputs_of(node) if s not in nodes and s.op != "get_attr")
        return {"input": next(iter(entering))} if len(entering) == 1 else {}
    node = nodes[0]
    if node.op == "call_module":
        return named(called_class(scopes, path, node), node.args, node.kwargs)
    return {str(position): value for position, value in enumerate(node.args)} | dict(node.kwargs)


def argument_of(node: fx.Node, place: tuple[int, str]) -> Any:
    """What `node` is given by position or by name."""
    position, name = place
    return node.kwargs[name] if name in node.kwargs else node.args[position]


def with_arguments(
    scopes: Mapping[str, Scope], path: str, like: fx.Node, new: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of the module call `like`, with those that are `new`.

    Raises:
        KeyError: the module takes no argument of that name.
    """
    cls = called_class(scopes, path, like)
    bound = named(cls, like.args, like.kwargs)
    for name, value in new.items():
        if name not in bound:
            raise KeyError(name)
        bound[name] = value
    return call_of(cls, bound, len(like.args))


def called_class(scopes: Mapping[str, Scope], path: str, node: fx.Node) -> type[nn.Module]:
    """The class of the module that `node` calls, whose forward names the arguments."""
    inner = opened(scopes, path, node)
    found: type[nn.Module] = node.meta["module_class"] if inner is None else scopes[inner].module_class
    return found
