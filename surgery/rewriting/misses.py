"""Why a rule applies nowhere, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from surgery.graph import ModelGraph
from surgery.rewriting.edit import Skipped
from surgery.rewriting.pattern import Except, NodePattern
from surgery.rewriting.rule import Rule
from surgery.wording import nearest

SPELLED = {"module_class": "module of class", "function": "function", "scope_class": "forward of class"}


def why_nothing(graph: ModelGraph, rule: Rule, skipped: Sequence[Skipped]) -> str:
    """Why `rule` applies nowhere, with the nearest misses."""
    head = f"{rule.name}: no {rule.pattern} to replace in {graph.root.module_class.__name__}"
    if skipped:
        near = max(skipped, key=lambda s: not s.reason.startswith("not selected"))
        return f"{head}; {len(skipped)} matched and were skipped, e.g. {near.path}: {near.reason}"
    return f"{head}; {_misspelled(graph, rule) or _unmet(graph, rule) or _there_is(graph)}"


def _misspelled(graph: ModelGraph, rule: Rule) -> str | None:
    """A class or function that the pattern names and the model has not."""
    for test in _named_tests(rule):
        for attribute, what in SPELLED.items():
            wanted = getattr(test, attribute)
            known = {str(node[attribute]) for _, node in graph.view.nodes(data=True) if node[attribute]}
            if wanted is not None and wanted not in known:
                return f"it has no {what} {wanted}{nearest(wanted, known)}"
    return None


def _unmet(graph: ModelGraph, rule: Rule) -> str | None:
    """A node of the pattern that nothing is; of several that are all there, that they are not so connected."""
    graphs = list(rule.pattern.graphs())
    for each in graphs:
        for name, test in each.nodes.items():
            if len(each.nodes) > 1 and not _is_any(graph, test):
                return f"nothing in it is {name}: {test}"
    if all(len(each.nodes) > 1 for each in graphs):
        return "it has each of them, but not so connected; only views, casts and splits may stand in between"
    return None


def _there_is(graph: ModelGraph) -> str:
    there = Counter(o.role for o in graph.operators() if o.role.endswith("attention") or o.role == "mlp")
    found = ", ".join(f"{count} {role.replace('_', '-')}" for role, count in there.items())
    return f"it has {found or 'no operators that are recognised'}"


def _named_tests(rule: Rule) -> Iterator[NodePattern]:
    for each in rule.pattern.graphs():
        for test in each.nodes.values():
            yield from _plain(test)


def _plain(test: Any) -> Iterator[NodePattern]:
    """The node pattern that a test names its classes by; of alternatives none, as not all of them need be there."""
    if isinstance(test, NodePattern):
        yield test
    elif isinstance(test, Except):
        yield from _plain(test.test)


def _is_any(graph: ModelGraph, test: Any) -> bool:
    return any(test.holds(attributes) for _, attributes in graph.view.nodes(data=True))
