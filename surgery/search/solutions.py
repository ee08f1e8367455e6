"""Sets of candidates that are worth a closer look, and the frontier between harm and cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from surgery.search.problem import Chosen, Problem, best, greedy, least, optimum

STEPS = 16
"""Points of a frontier, at most."""


@dataclass(frozen=True)
class Solution:
    """A feasible set of candidates.

    Attributes:
        why: how it was found.
        chosen: the candidates by number.
    """

    why: str
    chosen: Chosen


def shortlisted(problem: Problem, count: int) -> list[Solution]:
    """At most `count` different sets within the limits, the optimum first.

    After it come a runner-up, the optimum at a smaller budget, the greedy choice, and more runners-up.
    """
    found: dict[Chosen, Solution] = {}
    for solution in _in_turn(problem, count):
        found.setdefault(solution.chosen, solution)
        if len(found) == count:
            break
    return list(found.values())


def _in_turn(problem: Problem, count: int) -> Iterator[Solution]:
    ranked = best(problem, count)
    for why in ("optimum", "runner-up"):
        if (chosen := next(ranked, None)) is not None:
            yield Solution(why, chosen)
    if (chosen := optimum(_tighter(problem))) is not None:
        yield Solution("optimum at a smaller budget", chosen)
    if (chosen := greedy(problem)) is not None:
        yield Solution("greedy", chosen)
    yield from (Solution("runner-up", chosen) for chosen in ranked)


def _tighter(problem: Problem) -> Problem:
    """The same with limits a fifth of the way to the least that is possible."""
    lowest = [least(problem, limit) for limit in range(len(problem.room))]
    room = tuple(room + 0.2 * (low - room) for room, low in zip(problem.room, lowest, strict=True))
    return replace(problem, room=room)


def frontier(problem: Problem) -> list[tuple[float, float]]:
    """What the first cost can be changed by, and the least harm at which it can, from the least cost to none saved."""
    low, row = least(problem, 0), problem.costs[0]
    points: dict[Chosen, tuple[float, float]] = {}
    for step in range(STEPS + 1):
        room = low * (1 - step / STEPS)
        chosen = optimum(replace(problem, costs=(row,), room=(room,)))
        if chosen is not None:
            points[chosen] = (sum(row[n] for n in chosen), problem.harm(chosen))
    return sorted(points.values())
