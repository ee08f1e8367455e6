"""What was measured of each stage, and its samples, in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.evaluate.report.html import definitions, picture, table, text
from surgery.evaluate.report.words import NOTHING, columns_of, figure, heading, headline, percent, ratio
from surgery.evaluate.results import Column, Metrics, StageMetrics

CAPTIONS: dict[str, str] = {
    "teacher": "the pretrained model",
    "rewritten": "new operators, before training",
    "distilled": "after distillation",
    "finetuned": "after finetuning",
}


def stages_of(metrics: Metrics) -> str:
    """A table with a row for each stage and a column for each metric; the first is also given against the teacher's."""
    if not metrics.stages:
        return ""
    columns, first = columns_of(metrics), headline(metrics)
    head = ["Stage"]
    for name, column in columns.items():
        title = f'<span title="{column.better} is better">{heading(text(column.title))}</span>'
        head += [title, *(["× teacher"] if name == first else [])]
    rows = [_row(stage, metrics.teacher, columns, first) for stage in metrics.stages]
    meanings = definitions((heading(column.title), text(column.note)) for column in columns.values())
    return table([*head, "Time"], rows, 1, "stages") + meanings


def _row(
    stage: StageMetrics, teacher: StageMetrics | None, columns: Mapping[str, Column], first: str | None
) -> list[str]:
    cells = [stage.stage.capitalize()]
    for name, column in columns.items():
        value, reference = stage.values.get(name), teacher.values.get(name) if teacher else None
        cells.append(_against(value, reference) if column.unit == "count" else text(figure(value, column.unit)))
        if name == first:
            cells.append(ratio(value, reference) or NOTHING)
    return [*cells, f"{stage.seconds:.1f} s"]


def _against(number: float | None, reference: float | None) -> str:
    """A count, and below it how it differs from the reference."""
    shown = figure(number, "count")
    if number is None or reference is None or number == reference:
        return shown
    return f"{shown}<br><small>{percent(number, reference)}</small>"


def protocol(recipe: Mapping[str, Any]) -> str:
    """How the figures were taken."""
    costs = "FLOPs and latency: one forward pass of one sample."
    settings = recipe.get("evaluate") or {}
    if not {"samples", "steps"} <= settings.keys():
        return costs if "evaluate" in recipe else ""
    samples = (
        "as many samples as the metrics need," if settings["samples"] is None else f"{settings['samples']:,} samples"
    )
    return f"Quality: {samples} of {settings['steps']} steps. {costs}"


@dataclass(frozen=True)
class Sample:
    """A picture of samples with its words.

    Attributes:
        key: of its place on the page.
        title, value, caption: what stands below it.
        png: the picture.
    """

    key: str
    title: str
    value: str
    caption: str
    png: bytes


def samples_of(metrics: Metrics, grids: Mapping[str, bytes]) -> str:
    """A picture of each stage's samples."""
    name = headline(metrics)
    unit = columns_of(metrics)[name].unit if name else ""
    values: dict[str, str] = (
        {stage.stage: figure(stage.values.get(name), unit) for stage in metrics.stages} if name else {}
    )
    unchanged: dict[str, str] = {
        each.stage: "no steps: as before it" for each in metrics.stages[1:] if not each.seconds
    }
    captions = {**CAPTIONS, **unchanged}
    return gallery(
        [
            Sample(stage, stage.capitalize(), values.get(stage, ""), captions.get(stage, ""), png)
            for stage, png in grids.items()
        ]
    )


def gallery(samples: Sequence[Sample]) -> str:
    """Pictures side by side; a press on one enlarges it beside the first, which is the teacher's."""
    figures = []
    for sample in samples:
        place, title = f"samples-{text(sample.key)}", text(sample.title)
        figures.append(
            f'<figure id="{place}" popover><button popovertarget="{place}" aria-label="enlarge: {title}">'
            f"{picture(sample.png, f'samples of the model: {sample.title.lower()}')}</button>"
            f'<figcaption><b>{title}</b><span class="n">{text(sample.value)}</span>'
            f"<small>{text(sample.caption)}</small></figcaption></figure>"
        )
    return f'<div class="grids">{"".join(figures)}</div>' if figures else ""
