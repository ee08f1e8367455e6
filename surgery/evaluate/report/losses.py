"""The loss curves of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.evaluate.plots import Curve, finite, line_chart, shades, smooth, thin
from surgery.evaluate.report.html import figure, folded, text

ACCENT = "#c2410c"
QUIET = "#64748b"
LAST = "#3b82a0"
"""Of the last site; those between take shades from `ACCENT` to it."""
TRAINING = {"distil": "Distillation", "finetune": "Finetuning"}
HELD_OUT = "held-out batch"
_RING = ' class="o"'


def losses_of(losses: Sequence[Mapping[str, Any]]) -> str:
    """Curves of each stage of training, in all and by site; see `surgery.evaluate.report.Report`."""
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
    return figure(name, line_chart(curves, "step", f"{name}: loss by step"), _legend(legend))


def _sites_figure(records: Sequence[Mapping[str, Any]], name: str) -> str:
    paths = list(dict.fromkeys(path for record in records for path in record["sites"]))
    lines = [smooth(thin(finite((r["step"], r["sites"].get(path)) for r in records))) for path in paths]
    colours = shades(len(paths), ACCENT, LAST)
    curves = [Curve(line, colour) for line, colour in zip(lines, colours, strict=True)]
    ends = [_last(line) for line in lines]
    legend = _legend(list(zip(colours, paths, ends, strict=True)), code=True)
    return figure(f"{name}, by site", line_chart(curves, "step", f"{name}: loss of each site by step"), legend)


def _last(points: Sequence[tuple[float, float]]) -> str:
    return f"{points[-1][1]:.3g}" if points else "–"


def _legend(items: Sequence[tuple[str, str, str]], *, code: bool = False) -> str:
    """Colour, name and last value of each curve."""
    tag = "code" if code else "span"
    lines = [
        f'<li><i{_RING if name == HELD_OUT else ""} style="color:{colour}"></i>'
        f'<{tag}>{text(name)}</{tag}><span class="n">{value}</span></li>'
        for colour, name, value in items
    ]
    return folded(lines, f"{len(lines)} sites, first to last", "legend")
