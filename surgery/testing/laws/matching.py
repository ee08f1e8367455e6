"""Laws of patterns and of what they match."""

from __future__ import annotations

from random import Random

import networkx as nx
from pydantic import TypeAdapter

from surgery.rewriting.match import find_matches
from surgery.rewriting.pattern import Pattern
from surgery.testing import oracle
from surgery.testing.case import Case
from surgery.testing.compare import require

_PATTERN: TypeAdapter[Pattern] = TypeAdapter(Pattern)


def matches_are_those_of_brute_force(view: nx.MultiDiGraph, pattern: Pattern) -> None:
    """The matcher finds each set of nodes that fits, once, and no other; every binding is itself a match."""
    found = [frozenset(binding.values()) for binding in find_matches(view, pattern)]
    expected = oracle.matches(view, pattern)
    require(len(found) == len(set(found)), f"{pattern}: the same nodes are matched twice")
    missed, wrong = expected - set(found), set(found) - expected
    require(not missed, f"{pattern}: {len(missed)} of {len(expected)} matches are missed, e.g. {_shown(missed)}")
    require(not wrong, f"{pattern}: {len(wrong)} of {len(found)} matches are none, e.g. {_shown(wrong)}")


def matches_do_not_depend_on_names(view: nx.MultiDiGraph, pattern: Pattern, seed: int = 0) -> None:
    """With other names for its nodes and scopes, added in another order, a graph has the same matches."""
    random = Random(seed)
    keys, scopes = list(view.nodes), sorted({scope for _, scope in view.nodes(data="scope")})
    new_scopes = dict(zip(scopes, random.sample(range(len(scopes)), len(scopes)), strict=True))
    numbers = dict(zip(keys, random.sample(range(len(keys)), len(keys)), strict=True))
    renamed = {key: (f"s{new_scopes[view.nodes[key]['scope']]}", f"n{numbers[key]}") for key in keys}
    other = nx.MultiDiGraph()
    for key in random.sample(keys, len(keys)):
        other.add_node(renamed[key], **{**view.nodes[key], "scope": renamed[key][0]})
    edges = list(view.edges(data=True))
    other.add_edges_from((renamed[a], renamed[b], data) for a, b, data in random.sample(edges, len(edges)))
    expected = {frozenset(map(renamed.__getitem__, match.values())) for match in find_matches(view, pattern)}
    found = {frozenset(match.values()) for match in find_matches(other, pattern)}
    require(found == expected, f"{pattern}: {len(expected)} matches are {len(found)} after all nodes are renamed")


def pattern_survives_json(pattern: Pattern) -> None:
    """A pattern that is written as JSON and read again is the same."""
    again = _PATTERN.validate_json(_PATTERN.dump_json(pattern))
    require(again == pattern, f"{pattern}: JSON gives {again!r}")


def sites_are_those_of_brute_force(case: Case) -> None:
    """As `matches_are_those_of_brute_force`, of the rules' patterns."""
    for rule in case.rules:
        matches_are_those_of_brute_force(case.graph.view, rule.pattern)


def sites_do_not_depend_on_names(case: Case) -> None:
    """As `matches_do_not_depend_on_names`, of the rules' patterns."""
    for rule in case.rules:
        matches_do_not_depend_on_names(case.graph.view, rule.pattern)


def _shown(matches: set[oracle.Match]) -> str:
    return ", ".join(f"{scope}:{name}" for scope, name in sorted(min(matches, key=sorted, default=())))
