"""What a plan did and left, layer by layer, in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.evaluate.plots import ACCENT, QUIET, Curve, Point, finite, line_chart
from surgery.evaluate.report.html import LISTED, charts, figure, table, text
from surgery.evaluate.report.losses import legend_of
from surgery.evaluate.report.words import NOTHING, count, heading, percent
from surgery.recording.paths import is_inside

Edits = Sequence[Mapping[str, Any]]
Records = Sequence[Mapping[str, Any]]

LOSS_NOTE = (
    "Mean of the first tenth of distillation and of the last, at each edited layer, as shares of what zeros would have: "
    "how well its operator imitates, not how much the layer matters."
)
FLOPS_NOTE = "FLOPs of the edited sites of each layer, before and after. Counted, so exact."
TENTH = 10


def layers_of(graph_svg: str, edits: Edits, losses: Records, analysis: Records, meanings: Mapping[str, str]) -> str:
    """The drawing of the model, figures by layer, and a table of the edits; see `surgery.evaluate.report.Report`."""
    drawing = f'<div class="box drawing" tabindex="0" role="region" aria-label="drawing">{graph_svg}</div>'
    ends = _ends(losses)
    taught = analysis_figures(analysis, meanings, " Of the teacher, as surgery analyze gives it.")
    figures = [_loss_figure(edits, ends), _flops_figure(edits), *taught]
    return (drawing if graph_svg else "") + charts(figures) + (_table(edits, ends) if edits else "")


def _ends(losses: Records) -> dict[str, tuple[float, float]]:
    """The loss of each site at the beginning and the end of distillation."""
    records = [record for record in losses if record["sites"]]
    paths = dict.fromkeys(path for record in records for path in record["sites"])
    part = -(-len(records) // TENTH)

    def mean(some: Records, path: str) -> float | None:
        values = [value for _, value in finite((0, record["sites"].get(path)) for record in some)]
        return sum(values) / len(values) if values else None

    both = {path: (mean(records[:part], path), mean(records[-part:], path)) for path in paths}
    return {path: (first, last) for path, (first, last) in both.items() if first is not None and last is not None}


def _of_edit(edit: Mapping[str, Any], ends: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    """First and last loss of what an edit has to learn, summed."""
    places = (str(edit["path"]), *edit["path"].split(" + "))
    found = [both for path, both in ends.items() if any(is_inside(path, place) for place in places)]
    return (sum(first for first, _ in found), sum(last for _, last in found)) if found else None


def _by_layer(pairs: Sequence[tuple[Any, float]]) -> list[Point]:
    """Sums by layer."""
    sums: dict[int, float] = {}
    for layer, value in pairs:
        if layer is not None:
            sums[layer] = sums.get(layer, 0) + value
    return sorted((float(layer), value) for layer, value in sums.items())


def _loss_figure(edits: Edits, ends: Mapping[str, tuple[float, float]]) -> str:
    learnt = [(edit["layer"], both) for edit in edits if (both := _of_edit(edit, ends))]
    before = _by_layer([(layer, first) for layer, (first, _) in learnt])
    after = _by_layer([(layer, last) for layer, (_, last) in learnt])
    return _two("Distillation loss", "loss", before, after, ("first steps", "last steps"), LOSS_NOTE)


def _flops_figure(edits: Edits) -> str:
    before = _by_layer([(edit["layer"], edit["flops"]["before"]) for edit in edits])
    after = _by_layer([(edit["layer"], edit["flops"]["after"]) for edit in edits])
    return _two("Cost", "FLOPs", before, after, ("teacher", "student"), FLOPS_NOTE)


def _two(title: str, unit: str, before: list[Point], after: list[Point], names: tuple[str, str], note: str) -> str:
    """A figure of two values for each layer; nothing for a single layer, which the table tells of."""
    if len(after) < 2:
        return ""
    curves = [Curve(before, QUIET, "rings"), Curve(after, ACCENT, "rings")]
    legend = legend_of([(QUIET, names[0], ""), (ACCENT, names[1], "")])
    return figure(f"{title} by layer", line_chart(curves, "layer", f"{title} by layer", unit), legend, note)


def analysis_figures(analysis: Records, meanings: Mapping[str, str], origin: str = "") -> list[str]:
    """A figure for each number that an analysis gives of layers, with what it means and where it is from."""
    names = dict.fromkeys(n for row in analysis for n, v in row.items() if isinstance(v, int | float) and n != "layer")
    found = []
    for name in names:
        points = finite((row["layer"], row.get(name)) for row in analysis if row.get("layer") is not None)
        title = heading(name.replace("_", " "))
        drawing = line_chart(
            [Curve(points, ACCENT), Curve(points, ACCENT, "rings")], "layer", f"{title} by layer", title
        )
        note = f"{heading(meanings.get(name, title))}.{origin}"
        found.append(figure(f"{title} by layer", drawing, note=note))
    return found


def _table(edits: Edits, ends: Mapping[str, tuple[float, float]]) -> str:
    head = ("Layer", "Site", "Change", "Distillation loss", "Parameters", "FLOPs")
    rows = [
        (
            NOTHING if edit["layer"] is None else str(edit["layer"]),
            f"<code class=site>{text(edit['path'])}</code><br><small>{text(edit['rule'])}</small>",
            f"<s>{text(edit['replaced'])}</s><br><code>{text(edit['operator']).replace('(', '(<wbr>')}</code>",
            _loss(_of_edit(edit, ends)),
            _change(edit["params"]),
            _change(edit["flops"]),
        )
        for edit in edits
    ]
    listed = table(head, rows, 3, "edits")
    return listed if len(rows) <= LISTED else f"<details><summary>{len(rows)} edits</summary>{listed}</details>"


def _loss(both: tuple[float, float] | None) -> str:
    return NOTHING if both is None else f'{both[0]:.3g} <span class="to">→</span> {both[1]:.3g}'


def _change(counts: Mapping[str, Any]) -> str:
    before, after = counts["before"], counts["after"]
    if before == after:
        return count(after)
    below = f"<br><small>{percent(after, before)}</small>" if before else ""
    return f'{count(before)} <span class="to">→</span> {count(after)}{below}'


def skipped_of(skipped: Sequence[Mapping[str, Any]]) -> str:
    """The sites left alone, by reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in skipped:
        groups.setdefault((str(each["reason"]), str(each["rule"])), []).append(str(each["path"]))
    parts = []
    for (reason, rule), paths in groups.items():
        items = "".join(f"<li><code>{text(path)}</code></li>" for path in paths)
        sites = "1 site" if len(paths) == 1 else f"{len(paths)} sites"
        parts.append(
            f"<details><summary>{text(reason)}: {sites} <small>{text(rule)}</small></summary>"
            f'<ul class="paths">{items}</ul></details>'
        )
    return "".join(parts)
