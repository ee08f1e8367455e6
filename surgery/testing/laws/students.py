"""Laws of students: what they are, what they cost, and what of the teacher they keep."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import networkx as nx
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from surgery.artifact import load, save
from surgery.errors import ArtifactError
from surgery.graph import ModelGraph
from surgery.recording.paths import below, child_path, parent_and_name
from surgery.recording.reach import reach
from surgery.recording.state import own_class
from surgery.rewriting import Edit
from surgery.rewriting.commit import commit
from surgery.rewriting.graphs.anchors import Anchors
from surgery.testing.case import Case
from surgery.testing.compare import codes, kinds, require, require_close, require_same, state_of, weights

ROUNDING = 1e-9
"""Relative and absolute error in float64 of two ways to compute the same."""


def a_student_is_well_formed(case: Case) -> None:
    """Its graphs are acyclic and pass fx's lint; it gives the teacher's shapes, runs as it is traced, and trains."""
    _require_well_formed(case.student_graph)
    traced = case.student_graph.module()
    for call in (case.inputs, *case.others):
        expected, actual = _result(case.model, call), _result(case.student, call)
        require(kinds(expected) == kinds(actual), f"the student gives {kinds(actual)}, the teacher {kinds(expected)}")
        require(_is_finite(actual) or not _is_finite(expected), "the student gives numbers that are not finite")
        require_same(actual, _result(traced, call), "the outputs of the traced student")
    _require_trainable(case)


def the_plan_counts_what_the_student_has(case: Case) -> None:
    """Parameters and floating point operations, before and after, are those of the built models."""
    total = case.plan.total
    counted = {
        "parameters of the teacher": (total.params.before, _size(case.model)),
        "parameters of the student": (total.params.after, _size(case.student)),
        "FLOPs of the teacher": (total.flops.before, case.graph.flops),
        "FLOPs of the student": (total.flops.after, case.student_graph.flops),
    }
    for what, (planned, there) in counted.items():
        require(planned == there, f"{what}: the plan says {planned}, there are {there}")


def nothing_else_changes(case: Case) -> None:
    """The teacher is untouched and shares no memory; outside of the edits the student is like it."""
    before, code = state_of(case.model), codes(case.graph)
    student = commit(case.graph, case.plan.edits)
    _result(student, case.inputs)
    require_same(before, state_of(case.model), "the teacher after a rewrite")
    require_same(code, codes(case.graph), "the teacher's graphs after a rewrite")
    require(not _memory(case.model) & _memory(student), "student and teacher share memory")
    claims = [edit.claims for edit in case.plan.edits]
    added = [path for edit in case.plan.edits for path in edit.added.values()]
    edited = [*added, *(path for each in claims for path in each.modules)]
    touched = [name for path in edited for name in _names_of(case.model, path)]
    for what, ours, theirs in (
        ("weights", weights(case.model), weights(student)),
        ("classes", _own_classes(case.model), _own_classes(student)),
    ):
        require_same(_outside(ours, touched), _outside(theirs, touched), f"{what} outside of the edits")
    changed = {path for each in claims for path in each.scopes}
    matched = [path for each in claims for path in each.calls]  # some stay although nothing calls them any more
    graphs = _outside(_traced_code(case.graph), [*touched, *matched])
    kept = {path: code for path, code in graphs.items() if path not in changed}
    after = _traced_code(case.student_graph)
    require_same(kept, {path: after.get(path) for path in kept}, "graphs outside of the edits")


def a_saved_student_is_the_same(case: Case) -> None:
    """It has the same weights and outputs after `save` and `load`, bit for bit, unless a class of its own is refused."""
    of_diffusers = type(case.model).__module__.startswith("diffusers.")
    with tempfile.TemporaryDirectory() as folder:
        try:
            save(case.student, folder)
        except ArtifactError:
            if of_diffusers:
                raise
            return
        loaded = load(folder, base=None if of_diffusers else case.model).train(case.student.training)
    require_same(weights(case.student), weights(loaded), "the weights of a student that was saved")
    for call in (case.inputs, *case.others):
        require_same(_result(case.student, call), _result(loaded, call), "the outputs of a student that was saved")


def exact_rules_are_exact(case: Case) -> None:
    """In float64 the student gives what the teacher gives, within rounding."""
    double = case.double()
    for call in (double.inputs, *double.others):
        expected, actual = _result(double.model, call), _result(double.student, call)
        require_close(expected, actual, "the outputs of student and teacher in float64", ROUNDING)


def identity_rules_change_nothing(case: Case) -> None:
    """The student has the teacher's weights, graphs and outputs, bit for bit."""
    require_same(weights(case.model), weights(case.student), "the weights of an identity rule's student")
    require_same(_traced_code(case.graph), _traced_code(case.student_graph), "the graphs of an identity rule's student")
    for call in (case.inputs, *case.others):
        expected, actual = _result(case.model, call), _result(case.student, call)
        require_same(expected, actual, "the outputs of an identity rule's student")


def _require_well_formed(graph: ModelGraph) -> None:
    for scope in graph.scopes.values():
        for recording in scope.recordings:
            recording.graph.lint()
    if not nx.is_directed_acyclic_graph(graph.view):
        cycle = " -> ".join(f"{scope}:{name}" for (scope, name), *_ in nx.find_cycle(graph.view))
        raise AssertionError(f"the graph of the student has a cycle: {cycle}")


def _require_trainable(case: Case) -> None:
    """One backward gives finite gradients, and reaches the new operators of every edit."""
    outputs = pytree.tree_leaves(case.student(**copy.deepcopy(case.inputs)))
    loss = sum(t.square().sum() for t in outputs if isinstance(t, torch.Tensor) and t.is_floating_point())
    parameters = dict(case.student.named_parameters())
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        return
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    gradients = {p: g for p, g in zip(parameters.values(), found, strict=True) if g is not None}
    require(all(bool(g.isfinite().all()) for g in gradients.values()), "a gradient of the student is not finite")
    for edit in case.plan.edits:
        own = [p for path in edit.new for p in case.student.get_submodule(path).parameters()]
        reached = not own or any(p in gradients for p in own)
        require(reached or not _is_read(case.graph, edit), f"no gradient reaches the new operator at {edit.path}")


def _is_read(graph: ModelGraph, edit: Edit) -> bool:
    """Whether the result of what matched is used for that of the forward that it stands in, as not all of it may be."""
    for path, scope in graph.scopes.items():
        bound = edit.rewired
        if bound is None:
            calls = scope.graph.find_nodes(op="call_module")
            matched = [node for node in calls if child_path(path, node) in edit.claims.modules]
        else:
            (found,) = Anchors(scope.graph).find([bound.place]) if bound.place.scope == path else ([],)
            matched = [node for each in found for nodes in each.values() for node in nodes]
        if not _used(scope.graph).isdisjoint(matched):
            return True
    return False


def _used(graph: fx.Graph) -> set[fx.Node]:
    """What the output is computed from."""
    return set(reach(graph.find_nodes(op="output"), lambda node: node.all_input_nodes))


def _result(model: nn.Module, call: Mapping[str, Any]) -> Any:
    """What `model` gives on a copy of the inputs, as it may change them."""
    with torch.no_grad():
        return model(**copy.deepcopy(dict(call)))


def _is_finite(values: Any) -> bool:
    return all(bool(v.isfinite().all()) for v in pytree.tree_leaves(values) if isinstance(v, torch.Tensor))


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _memory(model: nn.Module) -> set[int]:
    tensors = (*model.parameters(), *model.buffers())
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel() and not t.is_meta}


def _own_classes(model: nn.Module) -> dict[str, type[nn.Module]]:
    return {path: own_class(module) for path, module in model.named_modules(remove_duplicate=False)}


def _traced_code(graph: ModelGraph) -> dict[str, str]:
    return {path: scope.recordings[0].code for path, scope in graph.scopes.items()}


def _names_of(model: nn.Module, path: str) -> Iterator[str]:
    """The path and all others that lead to the same place, as modules around it stand in several."""
    parent, name = parent_and_name(path)
    holder = model.get_submodule(parent)
    for other, module in model.named_modules(remove_duplicate=False):
        if module is holder:
            yield below(other, name)


def _outside(named: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The items of which the name is that of nothing at or below `paths`."""
    prefixes = tuple(f"{path}." for path in paths)
    return {name: value for name, value in named.items() if not f"{name}.".startswith(prefixes)}
