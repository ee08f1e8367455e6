"""Laws of taking edits back, and of their order."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn

from surgery.errors import MatchError
from surgery.rewriting import Rule, plan, rewrite, undo, where
from surgery.rewriting.commit import RECORD, commit
from surgery.testing.case import Case, Inputs
from surgery.testing.compare import classes, codes, require, require_same, weights
from surgery.tracing import trace


def undo_gives_the_original_back(case: Case) -> None:
    """What `undo` gives is the teacher: weights, classes, outputs and graphs; the student stays what it is."""
    before = weights(case.student)
    original = undo(case.student)
    require_same(before, weights(case.student), "the weights of a student after undo")
    require_same(weights(case.model), weights(original), "the weights after undo")
    require_same(classes(case.model), classes(original), "the classes after undo")
    require(RECORD not in vars(original), "after undo there is still a record of edits")
    for call in (case.inputs, *case.others):
        require_same(*_results(case.model, original, call), "the outputs after undo")
    require_same(codes(case.graph), codes(trace(original, case.inputs)), "the graphs after undo")


def disjoint_edits_commute(case: Case) -> None:
    """Edits of one plan give the same student in any order, and half of them after the other half."""
    edits = case.plan.edits
    _require_same_students(case, commit(case.graph, edits[::-1]), "with the edits in reverse order")
    first, second = _halves(case)
    if first and second:
        for one, other in ((first, second), (second, first)):
            half = rewrite(case.graph, one)
            try:
                plan(half, other, case.inputs)
            except MatchError:  # what these match is no more there: the edits are not independent
                return
            _require_same_students(case, rewrite(half, other, case.inputs), "with the edits in two steps")


def _halves(case: Case) -> tuple[list[Rule], list[Rule]]:
    """The rules at every second of their sites, and at the others."""
    sites = [(rule, path) for rule in case.rules for path in dict.fromkeys(_paths(case, rule))]
    return _at(sites[::2]), _at(sites[1::2])


def _at(sites: Iterable[tuple[Rule, str]]) -> list[Rule]:
    """The rules, at these sites only."""
    found: dict[int, tuple[Rule, set[str]]] = {}
    for rule, path in sites:
        found.setdefault(id(rule), (rule, set()))[1].add(path)
    return [_only(rule, paths) for rule, paths in found.values()]


def _paths(case: Case, rule: Rule) -> list[str]:
    return [edit.path for edit in plan(case.graph, [rule]).edits]


def _only(rule: Rule, paths: set[str]) -> Rule:
    return rule.model_copy(update={"layers": where(lambda site: site.path in paths)})


def _require_same_students(case: Case, student: nn.Module, how: str) -> None:
    require_same(weights(case.student), weights(student), f"the weights {how}")
    for call in (case.inputs, *case.others):
        require_same(*_results(case.student, student, call), f"the outputs {how}")


def _results(a: nn.Module, b: nn.Module, call: Inputs) -> tuple[object, object]:
    """What both give; each on its own copy of the inputs, as a model may change them."""
    return a(**copy.deepcopy(call)), b(**copy.deepcopy(call))
