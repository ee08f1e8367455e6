"""What was measured of each stage, and its samples, in a report."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from surgery.evaluate.report.html import table, text
from surgery.evaluate.report.words import NOTHING, columns_of, figure, heading, headline, percent, ratio
from surgery.evaluate.results import Column, Metrics, StageMetrics

CAPTIONS = {
    "teacher": "the pretrained model",
    "rewritten": "new operators, untrained",
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
    teacher = next((stage for stage in metrics.stages if stage.stage == "teacher"), None)
    rows = [_row(stage, teacher, columns, first) for stage in metrics.stages]
    return table([*head, "Time"], rows, 1, "stages")


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


def samples_of(metrics: Metrics, grids: Mapping[str, bytes]) -> str:
    """A picture of each stage's samples."""
    name = headline(metrics)
    unit = columns_of(metrics)[name].unit if name else ""
    values = {stage.stage: stage.values.get(name) for stage in metrics.stages} if name else {}
    figures = []
    for stage, png in grids.items():
        value = f'<span class="n">{text(figure(values[stage], unit))}</span>' if stage in values else ""
        figures.append(
            f'<figure><img alt="samples of the model: {text(stage)}"{_size(png)} '
            f'src="data:image/png;base64,{b64encode(png).decode()}">'
            f"<figcaption><b>{text(stage).capitalize()}</b>{value}"
            f"<small>{CAPTIONS.get(stage, '')}</small></figcaption></figure>"
        )
    return f'<div class="grids">{"".join(figures)}</div>' if figures else ""


def _size(png: bytes) -> str:
    """The attributes that keep a place for the picture, from the PNG's header."""
    if len(png) < 24 or png[12:16] != b"IHDR":
        return ""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return f' width="{width}" height="{height}"'
