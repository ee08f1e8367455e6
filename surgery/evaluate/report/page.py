"""The page as a whole. The same run gives the same bytes, whenever it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.evaluate.report.html import document, section, text
from surgery.evaluate.report.layers import layers_of, skipped_of
from surgery.evaluate.report.losses import losses_of
from surgery.evaluate.report.origin import code_of, origins_of
from surgery.evaluate.report.stages import protocol, samples_of, stages_of
from surgery.evaluate.report.words import verdict
from surgery.evaluate.results import Metrics

SAMPLES_NOTE = (
    "The same noise and the same classes or prompts, through each model: what differs is the model. "
    '<span class="screen">Press a picture to see it beside the teacher\'s, and Escape to go back.</span>'
)
LOADING_NOTE = "In the folder where the command was given."


@dataclass(frozen=True)
class Report:
    """What a report shows; anything may be missing or empty except the title.

    Attributes:
        title: model and recipe.
        metrics: the figures of each stage that was judged.
        losses: one for each training step, with keys stage, step, loss, sites (path -> loss) and validation (or None).
        grids: stage -> PNG of samples, all from the same noise.
        edits: keys path, rule, layer, replaced, operator, loss, and params and flops with keys before and after.
        skipped: keys path, rule, layer, reason.
        graph_svg: an SVG element, put on the page as it is: it must come from `surgery.graph.show.draw`.
        recipe: the resolved recipe.
        source: the recipe as Python.
        origins: the processes that made the run, see `surgery.run.origin.Origin`.
        loading: Python that loads the student.
        analysis: figures of the teacher's layers, each with the key layer.
        meanings: of these figures, by name.
        status: what the run is doing, if it has not ended.
    """

    title: str
    metrics: Metrics
    losses: list[dict[str, Any]]
    grids: dict[str, bytes]
    edits: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    graph_svg: str
    recipe: dict[str, Any]
    source: str = ""
    origins: tuple[Mapping[str, Any], ...] = ()
    loading: str = ""
    analysis: tuple[Mapping[str, Any], ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    status: str = ""


def render_report(report: Report) -> str:
    """The page, as HTML that can be encoded as UTF-8."""
    layers = layers_of(report.graph_svg, report.edits, report.losses, report.analysis, report.meanings)
    target = (report.recipe.get("finetune") or {}).get("target")
    sections = [
        section("Stages", stages_of(report.metrics), protocol(report.recipe)),
        section("Samples", samples_of(report.metrics, report.grids), SAMPLES_NOTE),
        section("Loss", losses_of(report.losses, report.edits, target)),
        section("Layers", layers),
        section("Left as it was", skipped_of(report.skipped), "Sites that a rule matched and did not edit."),
        section("Use the student", report.loading and code_of(report.loading, "how to load the student"), LOADING_NOTE),
        section("Recipe", _recipe(report)),
        section("How it was made", origins_of(report.origins)),
    ]
    return document(report.title, "surgery report", _verdict(report), "".join(sections))


def _verdict(report: Report) -> str:
    status = f'<p class="status">{text(report.status)}</p>' if report.status else ""
    sentence = verdict(report.metrics)
    return status + (f'<p class="verdict">{text(sentence)}</p>' if sentence else "")


def _recipe(report: Report) -> str:
    if not report.source:
        return ""
    summary = f"<code>{text(report.metrics.recipe)}</code>, as resolved, seed {report.metrics.seed}"
    return f"<details><summary>{summary}</summary>{code_of(report.source, 'recipe')}</details>"
