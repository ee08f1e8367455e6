"""The latency of a student from that of its teacher: what each edit takes out is timed, and what it puts in.

latency(student) = latency(teacher) + sum over edits of (time of its new calls - time of its old calls).

So the rest of the model counts as measured, and each kind of call is measured once, however many layers have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from surgery.analysis.readers import is_guard, is_view
from surgery.graph import ModelGraph
from surgery.recording.paths import child_path
from surgery.rewriting import Edit
from surgery.rewriting.commit import commit
from surgery.rewriting.planning import edited_recordings
from surgery.rewriting.site import traced
from surgery.search.timing import Timed, Timings, total

Counted = tuple[Timed, int]
"""A call, and how often it is made in a forward."""


class LatencyModel:
    """Predicts how an edit changes the time of a forward.

    Args:
        graph: of the teacher, whose module has its weights.
        inputs: keywords of its forward, on its device.
        timings: what was measured.
    """

    def __init__(self, graph: ModelGraph, inputs: Mapping[str, Any], timings: Timings) -> None:
        self._graph, self._inputs, self._timings = graph, inputs, timings

    def change(self, edits: Sequence[Edit]) -> float:
        """How much longer a forward takes with `edits`, which do not conflict, in milliseconds; negative if shorter.

        Raises:
            SurgeryError: a call cannot be made alone.
        """
        return sum(self._change(edit) for edit in edits)

    def _change(self, edit: Edit) -> float:
        if not edit.made and edit.rewired is None:
            return 0.0  # the same calls, of modules that share weights now
        student = commit(self._graph, [edit], shared=True)
        make = self._rewired if edit.rewired is not None else self._replaced
        old, new = make(edit, student)
        return total(self._timings, new) - total(self._timings, old)

    def _replaced(self, edit: Edit, student: nn.Module) -> tuple[list[Counted], list[Counted]]:
        """The module that the edit replaces, or around what it replaces, before and after."""
        teacher = self._graph.model
        (old,) = watched(teacher, [edit.unit], self._inputs).values()
        after = student.get_submodule(edit.unit)
        return [old.timed], [(Timed(_words(after), after, old.args, old.kwargs), old.count)]

    def _rewired(self, edit: Edit, student: nn.Module) -> tuple[list[Counted], list[Counted]]:
        """The calls that only one of both graphs of the edited scope has."""
        assert edit.rewired is not None
        scope = edit.rewired.place.scope
        before = self._graph.scopes[scope].graph
        after = edited_recordings(self._graph, [edit])[scope][0].graph
        return (
            self._calls(self._graph.model, scope, _only_in(before, after)),
            self._calls(student, scope, _only_in(after, before)),
        )

    def _calls(self, model: nn.Module, scope: str, nodes: Sequence[fx.Node]) -> list[Counted]:
        """The calls of `nodes`, of the graph of `scope`, that do some work."""
        modules = [child_path(scope, node) for node in nodes if node.op == "call_module"]
        seen = watched(model, [scope, *modules], self._inputs)
        runs = seen[scope].count
        found = [(seen[path].timed[0], runs) for path in modules]
        functions = [node for node in nodes if node.op in ("call_function", "call_method") and "val" in node.meta]
        device = next(model.parameters()).device
        return found + [(_function_call(node, device), runs) for node in functions if not is_view(node)]


@dataclass
class Seen:
    """The calls of a module in one forward: the arguments of the first, and how many there were."""

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    count: int = 0

    @property
    def timed(self) -> Counted:
        """It as a call to time."""
        return Timed(_words(self.module), self.module, self.args, self.kwargs), self.count


@torch.no_grad()
def watched(model: nn.Module, paths: Sequence[str], inputs: Mapping[str, Any]) -> dict[str, Seen]:
    """How the modules at `paths` are called in a forward of `model`."""
    seen = {path: Seen(model.get_submodule(path)) for path in dict.fromkeys(paths)}
    with ExitStack() as hooks:
        for each in seen.values():
            handle = each.module.register_forward_pre_hook(_noting(each), with_kwargs=True)
            hooks.callback(handle.remove)
        model(**inputs)
    return seen


def _noting(seen: Seen) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not seen.count:
            seen.args, seen.kwargs = args, kwargs
        seen.count += 1

    return hook


def _only_in(graph: fx.Graph, other: fx.Graph) -> list[fx.Node]:
    known = {node.name for node in other.nodes}
    return [node for node in graph.nodes if node.name not in known and not is_guard(node)]


def _function_call(node: fx.Node, device: torch.device) -> Timed:
    """The call of a function or method on made-up numbers of the traced sizes."""
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda tensor: _made_up(tensor, device), (traced(node.args), traced(node.kwargs))
    )
    name = str(getattr(node.target, "__name__", node.target))
    if node.op == "call_method":
        method = getattr(type(args[0]), str(node.target))
        return Timed(name, method, args, kwargs)
    assert callable(node.target)
    return Timed(name, node.target, args, kwargs)


def _made_up(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, dtype=tensor.dtype, device=device)
    return torch.ones(tensor.shape, dtype=tensor.dtype, device=device)


def _words(module: nn.Module) -> str:
    return type(module).__name__
