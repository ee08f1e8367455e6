"""The loss curves of a report, each kind of loss in a figure of its own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from surgery.evaluate.plots import ACCENT, LAST, QUIET, Curve, Point, finite, line_chart, shades, smooth, thin
from surgery.evaluate.report.html import charts, figure, folded, text

TRAINING = {"distil": "Distillation", "finetune": "Finetuning"}
HELD_OUT = "held-out batch"
_RING = ' class="o"'
_ERRORS = {"l1": "L1 error", "l2": "squared error", "huber": "Huber loss"}
_DIFFUSION = "diffusion loss"

Records = Sequence[Mapping[str, Any]]


def losses_of(losses: Records, edits: Sequence[Mapping[str, Any]], target: Any) -> str:
    """Curves of each stage of training, in all and by site; see `surgery.evaluate.report.Report`.

    Args:
        losses: of each step.
        edits: with the key loss.
        target: of finetuning, as in the recipe.
    """
    figures = []
    for stage in dict.fromkeys(record["stage"] for record in losses):
        records = [record for record in losses if record["stage"] == stage]
        figures += _distilled(records, edits) if stage == "distil" else _finetuned(records, target)
    return charts(figures)


def _distilled(records: Records, edits: Sequence[Mapping[str, Any]]) -> list[str]:
    errors = " and ".join(dict.fromkeys(_ERRORS.get(str(e.get("loss")), "error") for e in edits)) or "error"
    meaning = (
        f"{errors} between the outputs of new operators and of those that they replace, on the teacher's activations, "
        "as shares of what zeros would have, summed over the sites. Not comparable with the loss of finetuning. "
        f"{noise_of(points_of(records))}"
    )
    total = _figure("Distillation", records, f"{errors}, sum of sites", meaning, held_out=True)
    paths = list(dict.fromkeys(path for record in records for path in record["sites"]))
    lines = [smooth(thin(finite((r["step"], r["sites"].get(path)) for r in records))) for path in paths]
    colours = shades(len(paths), ACCENT, LAST)
    curves = [Curve(line, colour) for line, colour in zip(lines, colours, strict=True)]
    legend = legend_of(list(zip(colours, paths, map(_last, lines), strict=True)), code=True)
    drawing = line_chart(curves, "step", "Distillation: loss of each site by step", errors)
    note = "The same by site, as running means. At 1 a new operator is no better than one that gives zeros."
    return [total, figure("Distillation, by site", drawing, legend, note)]


def _finetuned(records: Records, target: Any) -> list[str]:
    noise = noise_of(points_of(records))
    if target == "data":
        meaning = f"The loss that models are pretrained with, on batches with noise and times of their own. {noise}"
        return [_figure("Finetuning", records, _DIFFUSION, meaning, held_out=True)]
    what = "the teacher's prediction and block outputs" if target == "teacher" else "what the recipe weighs together"
    held_out = points_of(records, "validation")
    drawing = line_chart(
        [Curve(thin(held_out), QUIET, "rings")], "step", "Finetuning: held-out loss by step", _DIFFUSION
    )
    note = (
        "The averaged weights against held-out data, whatever was trained on. Data, noise and times are the same at "
        "every point, so steps differ by no draw; what other held-out data would give is not measured."
    )
    return [
        _figure("Finetuning", records, "error", f"The student's error against {what}. {noise}"),
        figure("Finetuning, held out", drawing, legend_of([(QUIET, HELD_OUT, _last(held_out))]), note),
    ]


def _figure(name: str, records: Records, unit: str, note: str, *, held_out: bool = False) -> str:
    points = thin(points_of(records))
    held = points_of(records, "validation") if held_out else []
    curves = [Curve(points, ACCENT, "faint"), Curve(smooth(points), ACCENT), Curve(thin(held), QUIET, "rings")]
    legend = [(ACCENT, "training", _last(smooth(points)))] if points else []
    if held:
        legend.append((QUIET, HELD_OUT, _last(held)))
    return figure(name, line_chart(curves, "step", f"{name}: loss by step", unit), legend_of(legend), note)


def points_of(records: Records, key: str = "loss") -> list[Point]:
    """The loss of each step, or what else the records have under `key`."""
    return finite((record["step"], record.get(key)) for record in records)


def noise_of(points: Sequence[Point]) -> str:
    """How much one batch differs from the next, in words; nothing where there are too few to tell."""
    last = len(points) // 4
    smoothed = smooth(points)[-last:]
    if last < 8 or not (level := statistics.fmean(y for _, y in smoothed)) > 0:
        return ""
    spread = statistics.stdev(y - mean for (_, y), (_, mean) in zip(points[-last:], smoothed, strict=True))
    return f"Noise floor: one batch differs from the line by ±{100 * spread / level:.2g} % in the last quarter."


def _last(points: Sequence[Point]) -> str:
    return f"{points[-1][1]:.3g}" if points else "–"


def legend_of(items: Sequence[tuple[str, str, str]], *, code: bool = False) -> str:
    """Colour, name and last value of each curve."""
    tag = "code" if code else "span"
    lines = [
        f'<li><i{_RING if name == HELD_OUT else ""} style="color:{colour}"></i>'
        f'<{tag}>{text(name)}</{tag}><span class="n">{value}</span></li>'
        for colour, name, value in items
    ]
    return folded(lines, f"{len(lines)} curves, first to last", "legend")
