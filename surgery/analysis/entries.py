"""What a scope does to the tensors that it is given: which it changes in place, and which axis holds their features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from surgery.analysis.arguments import bound_arguments
from surgery.analysis.roles.primitives import bare
from surgery.recording.binding import call_of, named, unbind
from surgery.recording.in_place import called_name, writes
from surgery.recording.paths import child_path, opened
from surgery.recording.recording import Recording, Scope
from surgery.recording.signature import is_input
from surgery.recording.skeleton import skeleton
from surgery.recording.torch_private import pytree


def entries_of(module_class: type[nn.Module], recording: Recording) -> dict[fx.Node, str]:
    """The placeholders that are arguments themselves, not items of one, by name."""
    placeholders = iter(recording.graph.find_nodes(op="placeholder"))
    leaves = [next(placeholders) if is_input(leaf) else None for leaf in recording.in_leaves]
    arguments = _arguments(module_class, pytree.tree_unflatten(leaves, recording.in_spec))
    return {node: name for name, node in arguments.items() if isinstance(node, fx.Node)}


def _arguments(module_class: type[nn.Module], bound: dict[str, Any]) -> dict[str, Any]:
    args, kwargs = unbind(module_class, bound, len(bound))
    return named(module_class, args, kwargs)


def changed_in_place(scopes: Mapping[str, Scope], model: nn.Module, path: str) -> set[str]:
    """Names of the arguments that the scope at `path` changes in place, or hands to what does."""
    entries = entries_of(scopes[path].module_class, scopes[path].recordings[0])
    written = (source for node in scopes[path].graph.nodes for source in _written(scopes, model, path, node))
    return {entries[origin] for source in written for origin in _origins(source) if origin in entries}


def _written(scopes: Mapping[str, Scope], model: nn.Module, path: str, node: fx.Node) -> Iterator[fx.Node]:
    """What `node` changes in place."""
    if node.op == "call_module":
        inner, given = opened(scopes, path, node), bound_arguments(scopes, path, [node])
        if inner is not None:
            yield from (
                given[name] for name in changed_in_place(scopes, model, inner) if isinstance(given[name], fx.Node)
            )
        elif getattr(model.get_submodule(child_path(path, node)), "inplace", False):
            yield from node.all_input_nodes[:1]
    elif node.kwargs.get("inplace") is True or _is_in_place(node):
        yield from (each for each in node.args[:1] if isinstance(each, fx.Node))


def _is_in_place(node: fx.Node) -> bool:
    return node.op != "call_module" and writes(called_name(node), node.kwargs)


def _origins(node: fx.Node) -> Iterator[fx.Node]:
    """What shares the memory of `node`: what it is a view of, or the result of a change in place of."""
    while True:
        *_, origin = bare(node)
        yield origin
        if not (_is_in_place(origin) and origin.args and isinstance(origin.args[0], fx.Node)):
            return
        node = origin.args[0]


def feature_axis(scope: Scope, module: nn.Module, argument: str) -> int | None:
    """The axis of an argument that `module`, that of `scope`, takes as long as traced only, while it takes any last axis.

    So channels come first. None if the last axis holds the features, or no axis after the samples has to have its length.
    """
    recording = scope.recordings[0]
    given = _arguments(scope.module_class, pytree.tree_unflatten(recording.in_leaves, recording.in_spec))

    def runs(axis: int) -> bool:
        sizes = list(given[argument].shape)
        sizes[axis] += 1
        args, kwargs = call_of(scope.module_class, {**given, argument: given[argument].new_empty(sizes)}, 0)
        try:
            with torch.no_grad():
                skeleton(module)(*args, **kwargs)
        except Exception:  # whatever it is, this length is not taken
            return False
        return True

    *others, last = range(1, given[argument].dim())
    return next((axis for axis in others if not runs(axis)), None) if runs(last) else None
