"""Figures in words: with their units, and against the teacher's."""

from __future__ import annotations

import math

from surgery.evaluate.comparison import Spread
from surgery.evaluate.metrics import COSTS
from surgery.evaluate.results import Column, Metrics, StageMetrics

NBSP = "\u00a0"
NOTHING = "–"
"""What is shown where there is no figure."""

SMALL = 0.1
"""Two decimals would leave little of what is below."""

_COSTS = {cost.name: cost.column for cost in COSTS}


def columns_of(metrics: Metrics) -> dict[str, Column]:
    """How each metric that a stage has is shown, by name."""
    names = dict.fromkeys(name for stage in metrics.stages for name in stage.values)
    return {name: metrics.columns.get(name) or _COSTS.get(name) or Column(title=name) for name in names}


def headline(metrics: Metrics) -> str | None:
    """The name of the metric that a report speaks of: the first that judges quality, and has a figure if any has one.

    None if there is none that judges quality.
    """
    names = [name for name in columns_of(metrics) if name not in _COSTS]
    known = [name for name in names if any(stage.values.get(name) is not None for stage in metrics.stages)]
    return next(iter([*known, *names]), None)


def verdict(metrics: Metrics) -> str:
    """What came out, in one or two sentences: the last stage against the teacher."""
    teacher, students, name = metrics.teacher, metrics.students, headline(metrics)
    if name is None:
        return f"The {students[-1].stage} student has {_sizes(students[-1], teacher)}." if students and teacher else ""
    column = columns_of(metrics)[name]
    if not students:
        return f"The teacher has {_having(teacher, name, column)}." if teacher else ""
    last, first = students[-1], students[0]
    head = f"The {last.stage} student has {_having(last, name, column)}"
    if teacher is None:
        return f"{head}."
    theirs = figure(teacher.values.get(name), column.unit)
    sentence = f"{head}{_times(name, last, teacher, f' {theirs}')}, with {_sizes(last, teacher)}."
    if first is last or first.stage != "rewritten":
        return sentence
    before = figure(first.values.get(name), column.unit)
    return f"{sentence} Before any training it had {before}{_times(name, first, teacher, '')}."


def figure(value: float | None, unit: str) -> str:
    """A metric's value with its unit, see `surgery.evaluate.metrics.Metric`."""
    if value is None:
        return NOTHING
    if unit == "share":
        return f"{100 * value:.1f}{NBSP}%"
    if unit == "count":
        return count(value)
    # Two decimals would leave nothing of a small figure.
    plain = f"{value:.2g}" if 0 < abs(value) < SMALL else f"{value:.2f}"
    return f"{plain} {unit}".rstrip()


def spread_words(spread: Spread | None, unit: str) -> str:
    """A figure over seeds: its mean, and behind ± the standard deviation."""
    if spread is None:
        return NOTHING
    mean = figure(spread.mean, unit)
    if not spread.deviation:
        return mean
    # Both to the same place: behind 2.20 no 0.088.
    is_plain = unit not in ("share", "count") and abs(spread.mean) >= SMALL
    return f"{mean} ± {f'{spread.deviation:.2f} {unit}'.rstrip() if is_plain else figure(spread.deviation, unit)}"


def count(number: float) -> str:
    """A count with a unit: 1,797, 37.4 k, 675 M, 119 G."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if abs(number) >= size:
            return f"{_three(number / size)} {unit}"
    return f"{_three(number / 1e3)} k" if abs(number) >= 1e4 else f"{number:,.0f}"


def ratio(value: float | None, reference: float | None) -> str:
    """How many times the reference a value is; nothing where that says nothing."""
    if value is None or reference is None or reference <= 0:
        return ""
    times = value / reference
    return f"{times:.2f}" if times < 100 else f"{times:,.0f}"


def percent(number: float, reference: float) -> str:
    """How much a count differs from another, e.g. `−4.6 %`; nothing where the other is 0."""
    if not reference:
        return ""
    percent = 100 * (number / reference - 1)
    digits = next((digits for digits in range(1, 4) if round(percent, digits)), 4)
    return f"{percent:+.{0 if abs(percent) >= 100 else digits}f}{NBSP}%".replace("-", "−")


def heading(title: str) -> str:
    """A title as it begins a line."""
    return title[:1].upper() + title[1:]


def _three(number: float) -> str:
    """Three significant digits, zeros too, so that figures in a column align; more if they precede the point."""
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:,.{digits}f}"


def _having(stage: StageMetrics, name: str, column: Column) -> str:
    """A metric of a stage as the object of a sentence."""
    article = "an" if column.title[:1].lower() in "aeio" else "a"
    return f"{article} {column.title} of {figure(stage.values.get(name), column.unit)}"


def _times(name: str, stage: StageMetrics, teacher: StageMetrics, figure_of_teacher: str) -> str:
    """The figure of a stage against the teacher's, as the rest of a sentence."""
    value, reference = stage.values.get(name), teacher.values.get(name)
    if reference is None:
        return ""
    if value is None or reference <= 0:
        return f" against the teacher’s{figure_of_teacher}"
    times = value / reference
    return f", {times:,.{2 if times < 10 else 0}f} times the teacher’s{figure_of_teacher}"


def _sizes(stage: StageMetrics, teacher: StageMetrics) -> str:
    """Parameters and FLOPs of a stage against the teacher's."""
    (params, flops), reference = _counts(stage), _counts(teacher)
    if (params, flops) == reference:
        return "as many parameters and FLOPs"
    return f"{_more(params, reference[0])} parameters and {_more(flops, reference[1])} FLOPs"


def _counts(stage: StageMetrics) -> tuple[float, float]:
    return stage.values.get("params") or 0, stage.values.get("flops") or 0


def _more(number: float, reference: float) -> str:
    if number == reference:
        return "as many"
    difference = percent(number, reference).lstrip("+−") or count(number)
    return f"{difference} {'fewer' if number < reference else 'more'}"
