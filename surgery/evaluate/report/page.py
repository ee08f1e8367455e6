"""The page as a whole.

The page asks the browser by a content security policy to run no script and to fetch nothing, and it holds no date: the
same run gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from surgery.evaluate.report.changes import changes_of, skipped_of
from surgery.evaluate.report.html import section, text
from surgery.evaluate.report.losses import losses_of
from surgery.evaluate.report.stages import protocol, samples_of, stages_of
from surgery.evaluate.report.words import verdict
from surgery.evaluate.results import Metrics
from surgery.evaluate.style import STYLE

SAMPLES_NOTE = "The same noise and the same classes, through each model."
LOSS_NOTE = (
    "One point is one batch; the line is a running mean. In finetuning the held-out loss is the diffusion loss, also "
    "where the student learns from its teacher."
)


@dataclass(frozen=True)
class Report:
    """What a report shows; anything may be missing or empty except the title.

    Attributes:
        title: model and recipe.
        metrics: the figures of each stage that was judged.
        losses: one for each training step, with keys stage, step, loss, sites (path -> loss) and validation (or None).
        grids: stage -> PNG of samples, all from the same noise.
        edits: keys path, rule, layer, replaced, operator, and params and flops with keys before and after.
        skipped: keys path, rule, layer, reason.
        graph_svg: an SVG element, put on the page as it is: it must come from `surgery.graph.show.draw`.
        recipe: the resolved recipe.
        versions: package -> version.
    """

    title: str
    metrics: Metrics
    losses: list[dict[str, Any]]
    grids: dict[str, bytes]
    edits: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    graph_svg: str
    recipe: dict[str, Any]
    versions: dict[str, str]


def render_report(report: Report) -> str:
    """The page, as HTML that can be encoded as UTF-8."""
    sections = [
        section("Stages", stages_of(report.metrics), protocol(report.recipe)),
        section(
            "Samples",
            samples_of(report.metrics, report.grids),
            SAMPLES_NOTE,
        ),
        section("Loss", losses_of(report.losses), LOSS_NOTE),
        section("What changed", changes_of(report.graph_svg, report.edits)),
        section("Left as it was", skipped_of(report.skipped), "Sites that a rule matched and did not edit."),
        section("Recipe", _recipe(report)),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(report.title)}</title><style>{STYLE}</style></head><body><main>"
        f'<header><p class="over">surgery report</p><h1>{text(report.title)}</h1>{_verdict(report.metrics)}</header>'
        f"{''.join(sections)}{_footer(report)}</main></body></html>\n"
    )
    # A lone surrogate, as in a file name that is not UTF-8, could not be written to a file.
    return page.encode("utf-8", "replace").decode()


def _verdict(metrics: Metrics) -> str:
    sentence = verdict(metrics)
    return f'<p class="verdict">{text(sentence)}</p>' if sentence else ""


def _recipe(report: Report) -> str:
    if not report.recipe:
        return ""
    resolved = json.dumps(report.recipe, indent=2, ensure_ascii=False, default=str)
    name = text(report.metrics.recipe)
    return (
        f"<details><summary><code>{name}</code>, as resolved, seed {report.metrics.seed}</summary>"
        f'<pre class="box" tabindex="0">{text(resolved)}</pre></details>'
    )


def _footer(report: Report) -> str:
    versions = "".join(f"<span>{text(n)} {text(v)}</span>" for n, v in report.versions.items())
    return f"<footer>{versions}</footer>" if versions else ""
