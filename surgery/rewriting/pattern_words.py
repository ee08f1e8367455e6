"""What patterns match, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any


def words(test: Any, *, many: bool = False) -> str:
    """What a test of a node matches, of `many` in the plural."""
    if test.kind == "node":
        return _of_nodes([test], many)
    return _of_options(test.options, many) if test.kind == "any_of" else str(test)


def graph_words(nodes: Mapping[str, Any], edges: Sequence[tuple[str, str]]) -> str:
    """Nodes and edges; nodes that are alike, all in a row or all reading the same, in one phrase."""
    if not nodes:
        return "nothing"
    (name, first), *others = nodes.items()
    tests = [test for _, test in others]
    if edges == tuple(pairwise(nodes)):
        is_alike = len(tests) > 0 and all(test == first for test in tests)
        return f"{len(nodes)} {words(first, many=True)} in a row" if is_alike else " -> ".join(map(str, nodes.values()))
    if edges == tuple((name, other) for other, _ in others):
        is_alike = all(test == tests[0] for test in tests)
        readers = f"{len(tests)} {words(tests[0], many=True)}" if is_alike else " and ".join(map(str, tests))
        return f"{readers} that read the same {'tensor' if str(first) == 'node' else first}"
    return ", ".join(f"{a}: {nodes[a]} -> {b}: {nodes[b]}" for a, b in edges)


def _of_options(options: Sequence[Any], many: bool) -> str:
    """Those that are alike but for the function or class that they name are one phrase."""
    groups: dict[object, list[Any]] = {}
    for option in _flat(options):
        groups.setdefault(_but_for_name(option), []).append(option)
    phrases = [
        _of_nodes(group, many) if group[0].kind == "node" else words(group[0], many=many) for group in groups.values()
    ]
    return _either(phrases, " or ")


def _flat(options: Sequence[Any]) -> Iterator[Any]:
    """`a | b | c` is an alternative of `a | b` and c."""
    for option in options:
        yield from _flat(option.options) if option.kind == "any_of" else [option]


def _but_for_name(test: Any) -> object:
    """A node pattern as all others are that name something else of its kind; any other by what it says."""
    if test.kind != "node":
        return str(test)
    return test.role, test.within, test.scope_class, bool(test.function), bool(test.module_class)


def _of_nodes(alike: Sequence[Any], many: bool) -> str:
    """Node patterns that differ in the function or class that they name."""
    one = alike[0]
    calls = _either([f"{each.function}()" for each in alike if each.function])
    role = one.role and one.role.replace("_", "-")
    what = " ".join(filter(None, (role, calls))) or ("node" if one.module_class is None else "module")
    plural = (" calls" if calls else "s") if many else ""
    named = _either([each.module_class for each in alike if each.module_class])
    within = f" in a {one.within.replace('_', '-')}" if one.within else ""
    where = within + (f" in the forward of {one.scope_class}" if one.scope_class else "")
    return what + plural + (f" of class {named}" if named else "") + where


def _either(phrases: Sequence[str], between: str = ", ") -> str:
    """a, b or c; each phrase once."""
    *first, last = dict.fromkeys(phrases) or [""]
    return f"{between.join(first)} or {last}" if first else last
