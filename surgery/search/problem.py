"""Which candidates to take: the least harm within the limits, by integer programming or by greedy choice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

Chosen = frozenset[int]
"""Candidates by number."""


@dataclass(frozen=True)
class Problem:
    """A choice among n candidates, numbered from 0, whose harms and costs add up.

    Attributes:
        harms: of each candidate.
        costs: for each limit, how much each candidate adds; negative if it saves.
        room: how much all of them may add, for each limit; negative if some has to be saved.
        conflicts: pairs that cannot be taken together.
        excluded: sets that must not be taken, alone or with others.
    """

    harms: tuple[float, ...]
    costs: tuple[tuple[float, ...], ...]
    room: tuple[float, ...]
    conflicts: tuple[tuple[int, int], ...] = ()
    excluded: tuple[Chosen, ...] = ()

    def harm(self, chosen: Iterable[int]) -> float:
        """The sum of the harms, which is what is minimised."""
        return sum(self.harms[n] for n in chosen)

    def lack(self, chosen: Chosen) -> float:
        """How far the limits are exceeded, each relative to its scale; 0 if they are kept."""
        excess = [
            (sum(row[n] for n in chosen) - room) / scale
            for row, room, scale in zip(self.costs, self.room, self._scales, strict=True)
        ]
        return sum(max(0.0, each) for each in excess)

    def allows(self, chosen: Chosen) -> bool:
        """Whether no two of `chosen` conflict, and no excluded set is among them."""
        apart = not any(a in chosen and b in chosen for a, b in self.conflicts)
        return apart and not any(each <= chosen for each in self.excluded)

    def is_feasible(self, chosen: Chosen) -> bool:
        """Whether `chosen` is allowed and keeps the limits."""
        return self.allows(chosen) and self.lack(chosen) <= 0

    def without(self, chosen: Chosen) -> Problem:
        """The same with one more set excluded."""
        return replace(self, excluded=(*self.excluded, chosen))

    @property
    def _scales(self) -> list[float]:
        """The largest number of each limit, by which it is divided: costs are from 1 to 1e15."""
        return [
            max((abs(x) for x in (*row, room)), default=0) or 1.0
            for row, room in zip(self.costs, self.room, strict=True)
        ]

    def rows(self) -> Iterator[tuple[dict[int, float], float]]:
        """Every constraint as coefficients by candidate, and the most that they may sum to."""
        for row, room, scale in zip(self.costs, self.room, self._scales, strict=True):
            yield {n: cost / scale for n, cost in enumerate(row)}, room / scale
        yield from (({a: 1.0, b: 1.0}, 1.0) for a, b in self.conflicts)
        yield from ((dict.fromkeys(each, 1.0), len(each) - 1.0) for each in self.excluded)


def optimum(problem: Problem) -> Chosen | None:
    """The feasible set of the least harm; None if there is none.

    A solver keeps limits up to a tolerance only. A set that exceeds one by so little is barred, and the next best taken.
    """
    barred: list[Chosen] = []
    while True:
        chosen = _solved(problem, barred)
        if chosen is None or problem.is_feasible(chosen):
            return chosen
        barred.append(chosen)


def _solved(problem: Problem, barred: Sequence[Chosen]) -> Chosen | None:
    """What the solver says, of all sets but those `barred`, whose supersets stay."""
    count, rows = len(problem.harms), list(problem.rows())
    if not count:
        return frozenset() if problem.is_feasible(frozenset()) and not barred else None
    rows += [({n: 1.0 if n in each else -1.0 for n in range(count)}, len(each) - 1.0) for each in barred]
    matrix = np.zeros((len(rows), count))
    for place, (row, _) in enumerate(rows):
        for n, value in row.items():
            matrix[place, n] = value
    constraints = [LinearConstraint(matrix, ub=np.array([most for _, most in rows]))] if rows else []
    scale = max(map(abs, problem.harms)) or 1.0
    found = milp(
        np.array(problem.harms) / scale,
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    return None if found.x is None else frozenset(n for n, value in enumerate(found.x) if value > 0.5)


def greedy(problem: Problem) -> Chosen | None:
    """A feasible set: by turns, the candidate of the least harm for what it brings nearer to the limits.

    What turns out not to be needed is given back, the most harmful first. None if it ends where no candidate helps, which
    happens with conflicts only.
    """
    chosen: Chosen = frozenset()
    while (lack := problem.lack(chosen)) > 0:
        gains = {n: lack - problem.lack(chosen | {n}) for n in range(len(problem.harms)) if n not in chosen}
        helping = [n for n, gain in gains.items() if gain > 0 and problem.allows(chosen | {n})]
        if not helping:
            return None
        chosen |= {min(helping, key=lambda n: problem.harms[n] / gains[n])}
    for n in sorted(chosen, key=lambda n: -problem.harms[n]):
        if problem.lack(chosen - {n}) <= 0:
            chosen -= {n}
    return chosen if problem.is_feasible(chosen) else None


def least(problem: Problem, limit: int) -> float:
    """The least that can be added to the cost of the limit of that number, whatever the harm and the other limits."""
    row = problem.costs[limit]
    chosen = optimum(replace(problem, harms=row, costs=(), room=()))
    return sum(row[n] for n in chosen or ())


def best(problem: Problem, count: int) -> Iterator[Chosen]:
    """The optimum and its runners-up, at most `count`; none contains one before it."""
    for _ in range(count):
        chosen = optimum(problem)
        if chosen is None:
            return
        yield chosen
        if not chosen:
            return
        problem = problem.without(chosen)
