"""Several runs side by side, those that differ by their seed alone as one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.evaluate.results import Column, Metrics

TEACHER = "teacher"


@dataclass(frozen=True)
class Member:
    """One run.

    Attributes:
        folder: as it was named.
        metrics, losses: what there is so far.
        status: what it is doing, if it has not ended.
        grid: a PNG of samples of its last student; None if there is none.
        teacher_grid: the same of its teacher.
    """

    folder: str
    metrics: Metrics
    losses: Sequence[dict[str, Any]]
    status: str
    grid: bytes | None
    teacher_grid: bytes | None

    def value(self, stage: str | None, metric: str) -> float | None:
        """A metric of a stage; None if it was not measured there."""
        found = self.metrics.at(stage)
        return found.values.get(metric) if found else None


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: of the runs that have it.
        deviation: their standard deviation; None of a single one.
        runs: how many they are.
    """

    mean: float
    deviation: float | None
    runs: int

    @staticmethod
    def of(values: Iterable[float | None]) -> Spread | None:
        """That of some values, those that are none left out; None if nothing is left."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone.

    Attributes:
        name: of the folder of the first one.
        members: in the order in which they were named.
        differs: what of their recipe another group has otherwise, by its path, as Python.
    """

    name: str
    members: Sequence[Member]
    differs: dict[str, str]

    @property
    def stage(self) -> str | None:
        """The last stage at which the student of every run was measured."""
        measured = [student.stage for student in self.members[0].metrics.students]
        common = [stage for stage in measured if all(member.metrics.at(stage) for member in self.members)]
        return common[-1] if common else None

    def at(self, stage: str | None, metric: str) -> Spread | None:
        """A metric of a stage over the runs."""
        return Spread.of(member.value(stage, metric) for member in self.members)

    def against_teacher(self, stage: str | None, metric: str) -> Spread | None:
        """The same, each run's against its own teacher's, which starts from the same noise."""
        return Spread.of(_ratio(m.value(stage, metric), m.value(TEACHER, metric)) for m in self.members)


@dataclass(frozen=True)
class Comparison:
    """All groups, in the order in which their runs were named.

    Attributes:
        groups: at least one.
        columns: how each metric that any of them has is shown.
        first: the metric that judges quality; None if there is none.
    """

    groups: Sequence[Group]
    columns: dict[str, Column]
    first: str | None

    @property
    def stages(self) -> list[str]:
        """Those that any run was measured at, in order."""
        found = [s.stage for g in self.groups for m in g.members for s in m.metrics.stages]
        return [stage for stage in (TEACHER, "rewritten", "distilled", "finetuned") if stage in found]

    @property
    def caution(self) -> str:
        """What keeps the figures from being compared; nothing if nothing does."""
        paths = dict.fromkeys(path for group in self.groups for path in group.differs)
        asked = [path for path in paths if path.partition(".")[0] in ("model", "data", "evaluate", "dtype")]
        if not asked:
            return ""
        return f"The runs differ in {', '.join(asked)}: figures of quality are not comparable as they stand."


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None or reference <= 0 else value / reference
