"""The choice of candidates: integer programming gives what trying all sets gives."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.search.problem import Problem, best, greedy, least, optimum
from surgery.search.solutions import frontier, shortlisted


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to eight candidates under up to two limits, with conflicts and equal numbers."""
    count = draw(st.integers(0, 8))
    limits = draw(st.integers(1, 2))
    harms = st.one_of(st.integers(0, 4), st.floats(0, 1)).map(float)
    costs = st.one_of(st.integers(-6, 3), st.integers(-(10**12), 10**12)).map(float)

    def row(values: st.SearchStrategy[float]) -> tuple[float, ...]:
        return tuple(draw(st.lists(values, min_size=count, max_size=count)))

    pairs = list(combinations(range(count), 2))
    return Problem(
        harms=row(harms),
        costs=tuple(row(costs) for _ in range(limits)),
        room=tuple(float(draw(st.integers(-12, 6))) for _ in range(limits)),
        conflicts=tuple(draw(st.lists(st.sampled_from(pairs), max_size=4))) if pairs else (),
    )


def every_set(problem: Problem) -> list[frozenset[int]]:
    numbers = range(len(problem.harms))
    sets = chain.from_iterable(combinations(numbers, size) for size in range(len(problem.harms) + 1))
    return [chosen for chosen in map(frozenset, sets) if problem.is_feasible(chosen)]


@given(problems())
def test_the_optimum_is_that_of_trying_all(problem: Problem) -> None:
    feasible, found = every_set(problem), optimum(problem)
    assert (found is None) == (not feasible)
    if found is not None:
        assert problem.is_feasible(found)
        assert problem.harm(found) == pytest.approx(min(map(problem.harm, feasible)), abs=1e-9)


@given(problems())
def test_what_is_greedy_keeps_limits_and_conflicts(problem: Problem) -> None:
    found, feasible = greedy(problem), every_set(problem)
    if found is not None:
        assert problem.is_feasible(found)
        assert problem.harm(found) >= min(map(problem.harm, feasible)) - 1e-9


@given(problems())
def test_without_conflicts_and_with_one_limit_greedy_finds_a_set_where_there_is_one(problem: Problem) -> None:
    free = replace(problem, conflicts=(), costs=problem.costs[:1], room=problem.room[:1])
    assert (greedy(free) is None) == (not every_set(free))


@given(problems())
def test_the_least_cost_is_that_of_trying_all(problem: Problem) -> None:
    unlimited = replace(problem, costs=(), room=())
    cost = min(sum(problem.costs[0][n] for n in chosen) for chosen in every_set(unlimited))
    scale = max(map(abs, problem.costs[0]), default=0.0)
    assert least(problem, 0) == pytest.approx(cost, abs=1e-6 * scale)


@given(problems(), st.integers(1, 5))
def test_a_shortlist_is_feasible_distinct_and_led_by_the_optimum(problem: Problem, count: int) -> None:
    found = shortlisted(problem, count)
    sets = [solution.chosen for solution in found]
    assert all(map(problem.is_feasible, sets))
    assert len(set(sets)) == len(sets) <= count
    assert [solution.chosen for solution in found[:1]] == [
        chosen for chosen in [optimum(problem)] if chosen is not None
    ]


@given(problems(), st.integers(1, 5))
def test_runners_up_get_worse_and_contain_no_set_before_them(problem: Problem, count: int) -> None:
    found = list(best(problem, count))
    harms = [problem.harm(chosen) for chosen in found]
    assert harms == pytest.approx(sorted(harms))
    assert not any(one <= other for one, other in combinations(found, 2))


@settings(max_examples=20)
@given(problems())
def test_along_the_frontier_less_cost_is_more_harm(problem: Problem) -> None:
    points = frontier(problem)
    assert points
    harms = [harm for _, harm in points]
    assert all(a >= b - 1e-9 for a, b in pairwise(harms))


def test_the_example_in_the_documentation() -> None:
    problem = Problem(harms=(1.0, 2.0, 2.5), costs=((-3.0, -4.0, -6.0),), room=(-6.0,), conflicts=((0, 1),))
    assert optimum(problem) == {2}
    assert greedy(problem) == {2}
    assert optimum(problem.without(frozenset({2}))) is None
    assert optimum(replace(problem, room=(0.0,))) == frozenset()
