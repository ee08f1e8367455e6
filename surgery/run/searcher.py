"""The steps of a search: what each candidate costs and harms, the sets that are best, and what these are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from surgery.errors import MatchError, RecipeError, RewriteError
from surgery.evaluate.report import count
from surgery.progress import Progress
from surgery.rewriting import Plan
from surgery.rewriting.planning import prove
from surgery.rewriting.totals import count_weights
from surgery.run.folder import RunFolder
from surgery.run.prepare import Opened
from surgery.run.shortlist import Shortlist, shortened
from surgery.search.budget import CostName, Search
from surgery.search.candidates import Candidate, chosen_rules, exclusions
from surgery.search.harm import Distilled
from surgery.search.latency import Latencies
from surgery.search.problem import Chosen, Problem, least, optimum
from surgery.search.result import Judged, Limited, Option, SearchResult
from surgery.search.solutions import Solution, frontier, shortlisted
from surgery.sensitivity import GraftLibrary

LATENCY = "latency.json"
UNITS: dict[CostName, str] = {"latency": "ms", "flops": "FLOPs", "params": "parameters", "memory": "bytes"}


class Searcher:
    """The steps of one search."""

    def __init__(
        self, opened: Opened, asked: Search, candidates: Sequence[Candidate], folder: RunFolder, progress: Progress
    ) -> None:
        self._opened, self._asked, self._candidates = opened, asked, candidates
        self._folder, self._progress = folder, progress
        self._names = asked.budget.names
        self._distilled = Distilled(
            opened.graph,
            opened.data,
            shortened(opened.recipe.distil, asked.steps),
            opened.recipe.seed,
            GraftLibrary(opened.recipe.distil.library or folder.path / "grafts"),
            progress,
        )

    def check(self) -> None:
        """Refuse a budget that cannot be kept, as far as that is known before anything is measured.

        Raises:
            RecipeError: the teacher keeps it, or no set of candidates does.
        """
        counted = [name for name in self._names if name != "latency"]
        limits: dict[CostName, float] = {name: self._asked.budget.limit(name, self._counted[name]) for name in counted}
        problem = self._problem(limits, self._counted, self._counted_changes)
        if len(counted) == len(self._names):
            _require_tighter(problem)

    def run(self, name: str) -> SearchResult:
        """All steps; what an earlier process has measured is read back instead."""
        teacher, limits = self._teacher, self._limits
        problem = self._problem(limits, teacher, self._changes)
        _require_tighter(problem)
        harms = self._distilled.harms(self._candidates)
        problem = replace(problem, harms=tuple(harms))
        shortlist = Shortlist(self._opened, self._asked.steps, self._distilled, self._folder, self._progress)
        of_teacher = dict(shortlist.teacher())
        judged = [self._judged(each, problem, shortlist) for each in self._proven(problem, limits)]
        metric, columns = self._opened.metrics[0].name, shortlist.measuring.columns
        base = teacher[self._names[0]]
        return SearchResult(
            recipe=name,
            model=self._opened.recipe.model,
            budget={each: Limited(limit=limits[each], teacher=teacher[each]) for each in self._names},
            candidates=tuple(map(_option, self._candidates, harms, self._changes)),
            frontier=tuple((base + cost, harm) for cost, harm in frontier(problem)),
            metric=metric,
            columns=columns,
            teacher=of_teacher,
            shortlist=tuple(judged),
            chosen=_index_of_best(judged, metric, columns[metric].better == "higher"),
        )

    def _judged(self, solution: Solution, problem: Problem, shortlist: Shortlist) -> Judged:
        chosen = self._of(solution.chosen)
        added = {each: sum(self._changes[n][each] for n in solution.chosen) for each in self._teacher}
        return Judged(
            why=solution.why,
            candidates=tuple(candidate.key for candidate in chosen),
            harm=problem.harm(solution.chosen),
            cost={each: cost + added[each] for each, cost in self._teacher.items()},
            metrics=dict(shortlist.metrics(chosen)),
        )

    def _of(self, chosen: Chosen) -> list[Candidate]:
        return [self._candidates[n] for n in sorted(chosen)]

    @cached_property
    def _latencies(self) -> Latencies:
        graph, recipe = self._opened.graph, self._opened.recipe
        inputs = self._opened.data.example(recipe.seed, str(next(graph.model.parameters()).device))
        return Latencies(graph, inputs, self._folder.path / LATENCY, compiled=self._asked.compiled)

    @cached_property
    def _counted(self) -> dict[str, float]:
        """What one forward of the teacher costs, but for its latency."""
        graph = self._opened.graph
        params, memory = count_weights(graph.model, [])
        return {"flops": graph.flops, "params": params.before, "memory": memory.before}

    @cached_property
    def _teacher(self) -> dict[str, float]:
        """What one forward of the teacher costs; its latency only if that is limited."""
        return self._counted | ({"latency": self._latencies.teacher} if "latency" in self._names else {})

    @cached_property
    def _limits(self) -> dict[CostName, float]:
        return {name: self._asked.budget.limit(name, self._teacher[name]) for name in self._names}

    @cached_property
    def _counted_changes(self) -> list[dict[str, float]]:
        """What each candidate adds to the costs that are counted."""
        return [candidate.change(self._opened.graph.model) for candidate in self._candidates]

    @cached_property
    def _changes(self) -> list[dict[str, float]]:
        """What each candidate adds to the same costs as the teacher's."""
        if "latency" not in self._names:
            return self._counted_changes
        latencies = self._latencies.changes(self._candidates, self._progress)
        return [{**change, "latency": ms} for change, ms in zip(self._counted_changes, latencies, strict=True)]

    def _problem(
        self, limits: Mapping[CostName, float], teacher: Mapping[str, float], changes: Sequence[Mapping[str, float]]
    ) -> Problem:
        """The choice under these limits, its harms not known yet; refused where there is none.

        Raises:
            RecipeError: no set of candidates keeps them.
        """
        problem = Problem(
            harms=(0.0,) * len(changes),
            costs=tuple(tuple(change[name] for change in changes) for name in limits),
            room=tuple(limits[name] - teacher[name] for name in limits),
            conflicts=tuple(exclusions(self._candidates)),
        )
        lowest = {name: teacher[name] + least(problem, n) for n, name in enumerate(limits)}
        lines = [
            f"budget: {name} of at most {_amount(name, limits[name], teacher)} cannot be kept: the least that the rules "
            f"allow is {_amount(name, lowest[name], teacher)}; name a larger budget, or add rules that save more"
            for name in limits
            if lowest[name] > limits[name]
        ]
        if not lines and optimum(problem) is None:
            lines = ["budget: no set of the rules keeps all of its limits at once; name larger ones"]
        if lines:
            raise RecipeError("\n".join(lines))
        return problem

    def _proven(self, problem: Problem, limits: Mapping[CostName, float]) -> list[Solution]:
        """The shortlist, each set of which was planned as a whole and keeps the budget."""
        while True:
            found = shortlisted(problem, self._asked.shortlist)
            wrong = next((each for each in found if not self._works(each.chosen, limits)), None)
            if wrong is None:
                break
            problem = problem.without(wrong.chosen)
        if not found:
            raise RecipeError("budget: no set of the rules that keeps it can be made as a whole; name a larger one")
        return found

    def _works(self, chosen: Chosen, limits: Mapping[CostName, float]) -> bool:
        """Whether the plan of `chosen` has their edits and no others, without conflicts, and costs what was added up."""
        candidates = self._of(chosen)
        try:
            planned, _ = prove(self._opened.graph, chosen_rules(self._opened.graph, candidates))
        except (MatchError, RewriteError):
            return False
        wanted = {(edit.rule, edit.path) for each in candidates for edit in each.edits}
        made = {(edit.rule, edit.path) for edit in planned.edits}
        keeps = all(_cost(planned, name) <= limit for name, limit in limits.items() if name != "latency")
        return made == wanted and not planned.conflicts and keeps


def _require_tighter(problem: Problem) -> None:
    """RecipeError if nothing need be edited."""
    if problem.is_feasible(frozenset()):
        raise RecipeError("budget: the teacher keeps it already, so there is nothing to edit; name a smaller one")


def _cost(planned: Plan, name: CostName) -> int:
    return int(getattr(planned.total, name).after)


def _option(candidate: Candidate, harm: float, change: dict[str, float]) -> Option:
    return Option(
        key=candidate.key,
        rule=candidate.rule.name,
        layer=candidate.layer,
        paths=tuple(edit.path for edit in candidate.edits),
        harm=harm,
        change=change,
    )


def _amount(name: CostName, value: float, teacher: Mapping[str, float]) -> str:
    """A cost with its unit, and as a share of the teacher's."""
    shown = f"{value:.4g}" if name == "latency" else count(value)
    return f"{shown} {UNITS[name]} ({value / teacher[name]:.3f} of the teacher's)"


def _index_of_best(judged: Sequence[Judged], metric: str, higher: bool) -> int:
    """Which set is the best by the metric; one without a figure is the worst."""

    def rank(n: int) -> float:
        value = judged[n].metrics.get(metric)
        return float("inf") if value is None else -value if higher else value

    return min(range(len(judged)), key=rank)
