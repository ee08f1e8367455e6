"""The report of a run: one HTML page that needs nothing but itself.

The page asks the browser by a content security policy to run no script and to fetch nothing, and it holds no date: the
same run gives the same bytes.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from surgery.evaluate.metrics import Metrics, StageMetrics
from surgery.evaluate.plots import Curve, finite, line_chart, shades, smooth, thin
from surgery.evaluate.style import STYLE

ACCENT = "#c2410c"
QUIET = "#64748b"
TRAINING = {"distil": "Distillation", "finetune": "Finetuning"}
CAPTIONS = {
    "teacher": "the pretrained model",
    "rewritten": "new operators, untrained",
    "distilled": "after distillation",
    "finetuned": "after finetuning",
}
NBSP = "\u00a0"
HELD_OUT = "held-out batch"
LOSS_NOTE = (
    "One point is one batch; the line is a running mean. In finetuning the held-out loss is the diffusion loss, also "
    "where the student learns from its teacher."
)
LISTED = 12
"""Longer lists are folded."""
_RING = ' class="o"'


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
    """Return the page as HTML that can be encoded as UTF-8."""
    sections = [
        _section("Stages", _stages(report.metrics), _protocol(report.recipe)),
        _section("Samples", _samples(report), "The same noise and the same classes, through each model."),
        _section("Loss", _losses(report.losses), LOSS_NOTE),
        _section("What changed", _changes(report)),
        _section("Left as it was", _skipped(report.skipped), "Sites that a rule matched and did not edit."),
        _section("Recipe", _recipe(report)),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_text(report.title)}</title><style>{STYLE}</style></head><body><main>"
        f'<header><p class="over">surgery report</p><h1>{_text(report.title)}</h1>{_verdict(report.metrics)}</header>'
        f"{''.join(sections)}{_footer(report)}</main></body></html>\n"
    )
    # A lone surrogate, as in a file name that is not UTF-8, could not be written to a file.
    return page.encode("utf-8", "replace").decode()


def verdict(metrics: Metrics) -> str:
    """Say in one or two sentences what came out: the last stage against the teacher."""
    by_stage = {stage.stage: stage for stage in metrics.stages}
    teacher = by_stage.get("teacher")
    students = [stage for stage in metrics.stages if stage.stage != "teacher"]
    if not students:
        return f"The teacher has a Frechet distance of {teacher.frechet:.2f}." if teacher else ""
    last, first = students[-1], students[0]
    head = f"The {last.stage} student has a Frechet distance of {last.frechet:.2f}"
    if teacher is None:
        return f"{head}."
    sentence = f"{head}{_times(last, teacher, f'the teacher’s {teacher.frechet:.2f}')}, with {_sizes(last, teacher)}."
    if first is last or first.stage != "rewritten":
        return sentence
    return f"{sentence} Before any training it had {first.frechet:.2f}{_times(first, teacher, 'the teacher’s')}."


def count(number: float) -> str:
    """Return a count with a unit: 1,797, 37.4 k, 675 M, 119 G."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if abs(number) >= size:
            return f"{_three(number / size)} {unit}"
    return f"{_three(number / 1e3)} k" if abs(number) >= 1e4 else f"{number:,.0f}"


def _three(number: float) -> str:
    """Write three significant digits, zeros too, so that figures in a column align; more if they precede the point."""
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:,.{digits}f}"


def _times(stage: StageMetrics, teacher: StageMetrics, what: str) -> str:
    if not _ratio(stage.frechet, teacher.frechet):
        return f" against the teacher’s {teacher.frechet:.2f}"
    ratio = stage.frechet / teacher.frechet
    return f", {ratio:,.{2 if ratio < 10 else 0}f} times {what}"


def _ratio(value: float, reference: float) -> str:
    if not (math.isfinite(value) and math.isfinite(reference) and reference > 0):
        return ""
    ratio = value / reference
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"


def _sizes(stage: StageMetrics, teacher: StageMetrics) -> str:
    """Compare parameters and FLOPs of two models in words."""
    if (stage.params, stage.flops) == (teacher.params, teacher.flops):
        return "as many parameters and FLOPs"
    return f"{_more(stage.params, teacher.params)} parameters and {_more(stage.flops, teacher.flops)} FLOPs"


def _more(number: int, reference: int) -> str:
    if number == reference:
        return "as many"
    return f"{_percent(number, reference).lstrip('+−') or count(number)} {'fewer' if number < reference else 'more'}"


def _percent(number: float, reference: float) -> str:
    """How much a count differs from another, e.g. `−4.6 %`; nothing where the other is 0."""
    if not reference:
        return ""
    percent = 100 * (number / reference - 1)
    digits = next((digits for digits in range(1, 4) if round(percent, digits)), 4)
    return f"{percent:+.{0 if abs(percent) >= 100 else digits}f}{NBSP}%".replace("-", "−")


def _text(value: object) -> str:
    return escape(str(value))


def _section(title: str, content: str, note: str = "") -> str:
    if not content:
        return ""
    below = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{below}{content}</section>"


def _verdict(metrics: Metrics) -> str:
    sentence = verdict(metrics)
    return f'<p class="verdict">{_text(sentence)}</p>' if sentence else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int, label: str) -> str:
    """Build a table of HTML cells that scrolls in its own box; the first `words` columns hold words, the others figures."""

    def row(cells: Sequence[str], tag: str) -> str:
        classes = ["" if i < words else ' class="n"' for i in range(len(cells))]
        return "".join(f"<{tag}{c}>{cell}</{tag}>" for c, cell in zip(classes, cells, strict=True))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<thead><tr>{row(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _stages(metrics: Metrics) -> str:
    if not metrics.stages:
        return ""
    teacher = next((stage for stage in metrics.stages if stage.stage == "teacher"), None)
    columns: dict[str, Callable[[StageMetrics], str]] = {
        "Stage": lambda s: s.stage.capitalize(),
        "Frechet distance": lambda s: f"{s.frechet:.2f}",
        "× teacher": lambda s: (_ratio(s.frechet, teacher.frechet) if teacher else "") or "–",
        "Class accuracy": lambda s: f"{100 * s.accuracy:.1f}{NBSP}%",
        "Parameters": lambda s: _against(s.params, teacher.params if teacher else s.params),
        "FLOPs": lambda s: _against(s.flops, teacher.flops if teacher else s.flops),
        "Latency": lambda s: f"{s.latency_ms:.2f} ms",
        "Time": lambda s: f"{s.seconds:.1f} s",
    }
    rows = ([cell(stage) for cell in columns.values()] for stage in metrics.stages)
    return _table(list(columns), rows, 1, "stages")


def _against(number: int, reference: int) -> str:
    """A count, and below it how it differs from the reference."""
    if number == reference:
        return count(number)
    return f"{count(number)}<br><small>{_percent(number, reference)}</small>"


def _protocol(recipe: Mapping[str, Any]) -> str:
    """How the figures were taken."""
    settings = recipe.get("evaluate", {})
    if not {"samples", "steps"} <= settings.keys():
        return ""
    drawn = f"Distance and accuracy: {settings['samples']:,} samples of {settings['steps']} steps."
    return f"{drawn} FLOPs and latency: one forward pass of one sample."


def _samples(report: Report) -> str:
    figures = []
    distances = {stage.stage: stage.frechet for stage in report.metrics.stages}
    for stage, png in report.grids.items():
        distance = f'<span class="n">{distances[stage]:.2f}</span>' if stage in distances else ""
        figures.append(
            f'<figure><img alt="samples of the model: {_text(stage)}"{_size(png)} '
            f'src="data:image/png;base64,{b64encode(png).decode()}">'
            f"<figcaption><b>{_text(stage).capitalize()}</b>{distance}"
            f"<small>{CAPTIONS.get(stage, '')}</small></figcaption></figure>"
        )
    return f'<div class="grids">{"".join(figures)}</div>' if figures else ""


def _size(png: bytes) -> str:
    """Give the attributes that keep a place for the picture, from the PNG's header."""
    if len(png) < 24 or png[12:16] != b"IHDR":
        return ""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return f' width="{width}" height="{height}"'


def _losses(losses: Sequence[Mapping[str, Any]]) -> str:
    figures = []
    for stage in dict.fromkeys(record["stage"] for record in losses):
        records = [record for record in losses if record["stage"] == stage]
        name = TRAINING.get(stage, str(stage))
        figures += [_total_figure(records, name), _sites_figure(records, name)]
    shown = "".join(figures)
    return f'<div class="charts">{shown}</div>' if shown else ""


def _total_figure(records: Sequence[Mapping[str, Any]], name: str) -> str:
    points = thin(finite((r["step"], r["loss"]) for r in records))
    held_out = finite((r["step"], r.get("validation")) for r in records)
    curves = [
        Curve(points, ACCENT, "faint"),
        Curve(smooth(points), ACCENT),
        Curve(thin(held_out), QUIET, "rings"),
    ]
    legend = [(ACCENT, "training", _last(smooth(points)))] if points else []
    if held_out:
        legend.append((QUIET, HELD_OUT, _last(held_out)))
    return _figure(name, line_chart(curves, "step", f"{name}: loss by step"), _legend(legend))


def _sites_figure(records: Sequence[Mapping[str, Any]], name: str) -> str:
    paths = list(dict.fromkeys(path for record in records for path in record["sites"]))
    lines = [smooth(thin(finite((r["step"], r["sites"].get(path)) for r in records))) for path in paths]
    colours = shades(len(paths), ACCENT, "#3b82a0")
    curves = [Curve(line, colour) for line, colour in zip(lines, colours, strict=True)]
    ends = [_last(line) for line in lines]
    legend = _legend(list(zip(colours, paths, ends, strict=True)), code=True)
    return _figure(f"{name}, by site", line_chart(curves, "step", f"{name}: loss of each site by step"), legend)


def _last(points: Sequence[tuple[float, float]]) -> str:
    return f"{points[-1][1]:.3g}" if points else "–"


def _legend(items: Sequence[tuple[str, str, str]], *, code: bool = False) -> str:
    """List colour, name and last value of each curve."""
    tag = "code" if code else "span"
    lines = [
        f'<li><i{_RING if name == HELD_OUT else ""} style="color:{colour}"></i><{tag}>{_text(name)}</{tag}><span class="n">{value}</span></li>'
        for colour, name, value in items
    ]
    return _folded(lines, f"{len(lines)} sites, first to last", "legend")


def _folded(items: Sequence[str], summary: str, css: str) -> str:
    """Build a list, folded if it is long."""
    listed = f'<ul class="{css}">{"".join(items)}</ul>'
    return listed if len(items) <= LISTED else f"<details><summary>{summary}</summary>{listed}</details>"


def _figure(title: str, drawing: str, legend: str) -> str:
    if not drawing:
        return ""
    return f"<figure><figcaption><b>{_text(title)}</b></figcaption>{drawing}{legend}</figure>"


def _changes(report: Report) -> str:
    drawing = f'<div class="box drawing" tabindex="0" role="region" aria-label="drawing">{report.graph_svg}</div>'
    edits = _edits(report.edits) if report.edits else ""
    return (drawing if report.graph_svg else "") + edits


def _edits(edits: Sequence[Mapping[str, Any]]) -> str:
    head = ("Site", "Rule", "Change", "Parameters", "FLOPs")
    rows = [
        (
            f"<code>{_text(edit['path'])}</code>",
            _text(edit["rule"]),
            f"<s>{_text(edit['replaced'])}</s><br><code>{_text(edit['operator'])}</code>",
            _change(edit["params"]),
            _change(edit["flops"]),
        )
        for edit in edits
    ]
    table = _table(head, rows, 3, "edits")
    return table if len(rows) <= LISTED else f"<details><summary>{len(rows)} edits</summary>{table}</details>"


def _change(counts: Mapping[str, Any]) -> str:
    before, after = counts["before"], counts["after"]
    if before == after:
        return count(after)
    percent = f"<br><small>{_percent(after, before)}</small>" if before else ""
    return f'{count(before)} <span class="to">→</span> {count(after)}{percent}'


def _skipped(skipped: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for each in skipped:
        groups.setdefault((str(each["reason"]), str(each["rule"])), []).append(str(each["path"]))
    parts = []
    for (reason, rule), paths in groups.items():
        items = "".join(f"<li><code>{_text(path)}</code></li>" for path in paths)
        sites = "1 site" if len(paths) == 1 else f"{len(paths)} sites"
        parts.append(
            f"<details><summary>{_text(reason)}: {sites} <small>{_text(rule)}</small></summary>"
            f'<ul class="paths">{items}</ul></details>'
        )
    return "".join(parts)


def _recipe(report: Report) -> str:
    if not report.recipe:
        return ""
    resolved = json.dumps(report.recipe, indent=2, ensure_ascii=False, default=str)
    name = _text(report.metrics.recipe)
    return (
        f"<details><summary><code>{name}</code>, as resolved, seed {report.metrics.seed}</summary>"
        f'<pre class="box" tabindex="0">{_text(resolved)}</pre></details>'
    )


def _footer(report: Report) -> str:
    versions = "".join(f"<span>{_text(n)} {_text(v)}</span>" for n, v in report.versions.items())
    return f"<footer>{versions}</footer>" if versions else ""
