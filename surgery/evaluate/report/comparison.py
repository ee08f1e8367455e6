"""The page of several runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from surgery.evaluate.comparison import Comparison, Group, Member, Spread
from surgery.evaluate.plots import ACCENT, LAST, Curve, Point, line_chart, shades, smooth, thin
from surgery.evaluate.report.html import charts, definitions, document, figure, section, table, text
from surgery.evaluate.report.losses import legend_of, points_of
from surgery.evaluate.report.stages import CAPTIONS, Sample, gallery
from surgery.evaluate.report.words import NOTHING, heading, spread_words
from surgery.evaluate.report.words import figure as figure_words

SPREAD_NOTE = "Behind ± is the standard deviation over seeds; a figure without it is of one run."
CURVES_NOTE = "A line is the running mean of one run; runs that differ by their seed alone share a colour."
HELD_OUT_NOTE = "The same data, noise and times at every step of a run."
LOSSES = {
    "distil": (
        "Distillation",
        "loss",
        "Summed over the sites, so comparable where sites, losses and teacher are the same.",
    ),
    "finetune": ("Finetuning", "loss", "Comparable where finetune.target is the same."),
}


def render_comparison(comparison: Comparison) -> str:
    """The page, as HTML that can be encoded as UTF-8."""
    runs = sum(len(group.members) for group in comparison.groups)
    title = f"{runs} run{'s' if runs > 1 else ''} compared"
    sections = [
        section("Results", _results(comparison), f"{SPREAD_NOTE} {text(comparison.caution)}"),
        section("Stage by stage", _stages(comparison), _stages_note(comparison)),
        section("What differs", _differences(comparison.groups)),
        section("Curves", charts(_curves(comparison.groups)), CURVES_NOTE),
        section(
            "Samples", _samples(comparison), "Of the first run of each row, from the same noise where seeds agree."
        ),
        section("Not ended", _statuses(comparison.groups)),
    ]
    return document(title, "surgery comparison", _best(comparison), "".join(sections))


def _best(comparison: Comparison) -> str:
    """Which student is best by the first metric, where all were judged alike."""
    name = comparison.first
    known = [(group, spread) for group in comparison.groups if name and (spread := group.at(group.stage, name))]
    if name is None or len(known) < 2 or comparison.caution or len({group.stage for group, _ in known}) > 1:
        return ""
    column = comparison.columns[name]
    ranked = sorted(known, key=lambda pair: pair[1].mean, reverse=column.better == "higher")
    (first, best), (second, next_) = ranked[:2]
    words = (
        f"{first.name} has the {'highest' if column.better == 'higher' else 'lowest'} {column.title}, "
        f"{spread_words(best, column.unit)}; {second.name} follows with {spread_words(next_, column.unit)}."
    )
    return f'<p class="verdict">{text(words)}</p>'


def _results(comparison: Comparison) -> str:
    """A row for each group, its student being the last one measured."""
    head = ["Run", "Stage"]
    for name, column in comparison.columns.items():
        head += [heading(text(column.title)), *(["× teacher"] if name == comparison.first else [])]
    rows = []
    for group in comparison.groups:
        seeds = f"<br><small>{_seeds(group)}</small>"
        row = [_named(group) + seeds, text((group.stage or NOTHING).capitalize())]
        for name, column in comparison.columns.items():
            row.append(text(spread_words(group.at(group.stage, name), column.unit)))
            if name == comparison.first:
                row.append(text(spread_words(group.against_teacher(group.stage, name), "")))
        rows.append(row)
    meanings = definitions((heading(column.title), text(column.note)) for column in comparison.columns.values())
    return table(head, rows, 2, "results") + meanings


def _named(group: Group) -> str:
    return f'<span class="name">{text(group.name)}</span>'


def _seeds(group: Group) -> str:
    seeds = [str(member.metrics.seed) for member in group.members]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(seeds)}"


def _stages(comparison: Comparison) -> str:
    """The first metric at each stage."""
    if comparison.first is None:
        return ""
    name, unit = comparison.first, comparison.columns[comparison.first].unit
    head = ["Run", *(stage.capitalize() for stage in comparison.stages)]
    rows = [
        [_named(group), *(text(spread_words(group.at(stage, name), unit)) for stage in comparison.stages)]
        for group in comparison.groups
    ]
    return table(head, rows, 1, "stages")


def _stages_note(comparison: Comparison) -> str:
    return text(heading(comparison.columns[comparison.first].title)) + "." if comparison.first else ""


def _differences(groups: Sequence[Group]) -> str:
    """What of each recipe others have otherwise."""
    listed = [(group.name, ", ".join(f"{path}={value}" for path, value in group.differs.items())) for group in groups]
    return definitions(((name, f"<code>{text(values)}</code>") for name, values in listed if values), "facts")


def _curves(groups: Sequence[Group]) -> Iterator[str]:
    for stage, (title, unit, note) in LOSSES.items():
        held_out = "diffusion loss" if stage == "finetune" else unit
        yield _chart(groups, f"{title}, training", unit, note, partial(_training, stage=stage))
        yield _chart(groups, f"{title}, held out", held_out, HELD_OUT_NOTE, partial(_points, stage=stage))


def _points(member: Member, stage: str, key: str = "validation") -> list[Point]:
    return thin(points_of([record for record in member.losses if record["stage"] == stage], key))


def _training(member: Member, stage: str) -> list[Point]:
    return smooth(_points(member, stage, "loss"))


def _chart(groups: Sequence[Group], title: str, unit: str, note: str, points: Callable[[Member], list[Point]]) -> str:
    colours = shades(len(groups), ACCENT, LAST)
    curves, legend = [], []
    for group, colour in zip(groups, colours, strict=True):
        lines = [line for member in group.members if (line := points(member))]
        curves += [Curve(line, colour) for line in lines]
        if lines:
            last = Spread.of(line[-1][1] for line in lines)
            legend.append((colour, group.name, f"{last.mean:.3g}" if last else ""))
    return figure(title, line_chart(curves, "step", title, unit), legend_of(legend), note)


def _samples(comparison: Comparison) -> str:
    name = comparison.first
    shown = []
    grid = next((m.teacher_grid for g in comparison.groups for m in g.members if m.teacher_grid), None)
    if grid is not None:
        shown.append(Sample("teacher", "Teacher", "", CAPTIONS["teacher"], grid))
    for number, group in enumerate(comparison.groups):
        member, students = group.members[0], group.members[0].metrics.students
        if member.grid is not None and students:
            value = figure_words(students[-1].values.get(name), comparison.columns[name].unit) if name else ""
            shown.append(Sample(str(number), group.name, value, students[-1].stage, member.grid))
    return gallery(shown)


def _statuses(groups: Sequence[Group]) -> str:
    return definitions((member.folder, text(member.status)) for group in groups for member in group.members)
