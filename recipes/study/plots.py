"""Draws students as dots by how far they are from their teacher."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

PAPER, INK, SOFT, HAIR, BLUE = "#fcfcfb", "#2b2b2b", "#6b6b6b", "#dedede", "#2f6f9f"
TICKS = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
CROWDED, CLOSE = 3.0, (0.6, 0.7, 0.9, 1.1)
"""An axis that goes as far has no room for these ticks beside their neighbours."""
TOLD, BEYOND = "\n\N{WHITE DIAMOND} the paper's figure", ", \N{WHITE RIGHT-POINTING TRIANGLE} beyond the axis"


def draw(rows: Sequence[Any], floor: float, path: Path) -> None:
    """Write a picture of `rows` (`page.Judged`), in which two standard deviations of the noise are grey."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure, panel = plt.subplots(figsize=(8, 0.26 * len(rows) + 0.9), facecolor=PAPER)
        panel.set_facecolor(PAPER)
        panel.axvspan(1 - 2 * floor, 1 + 2 * floor, color=HAIR, zorder=0)
        panel.axvline(1, color=SOFT, linewidth=0.8)
        for height, row in enumerate(rows):
            panel.errorbar(row.ratio, -height, xerr=2 * row.error, fmt="o", color=BLUE, markersize=5, elinewidth=1)
            if row.paper is not None:
                _mark(panel, row.paper, -height)
            side = {"xycoords": ("axes fraction", "data"), "va": "center", "color": INK}
            panel.annotate(f"{row.ratio:.2f}", (1.02, -height), **side)
        _axes(panel, rows, floor)
        figure.savefig(path, dpi=140, facecolor=PAPER, bbox_inches="tight", pad_inches=0.15)
        plt.close(figure)


def _mark(panel: Any, paper: float, height: float) -> None:
    """What the paper has; at the right edge, wherever that is, if it is beyond all axes."""
    look = {"s": 22, "zorder": 2, "facecolor": PAPER, "edgecolor": SOFT}
    if isfinite(paper):
        panel.scatter(paper, height, marker="D", **look)
    else:
        panel.scatter(1, height, marker=">", transform=panel.get_yaxis_transform(), clip_on=False, **look)


def limits(rows: Sequence[Any], floor: float) -> tuple[float, float]:
    """The ends of an axis that shows all rows, with the paper's figures where it tells them."""
    told = [row.paper for row in rows if row.paper is not None and isfinite(row.paper)]
    most = max(*(row.ratio + 2 * row.error for row in rows), *told, 1.04)
    least = min(max(1 - 3 * floor, 0.5), *(max(row.ratio - 2 * row.error, row.ratio / 2) for row in rows), *told)
    return 0.97 * least, 1.25 * most


def ticks_of(least: float, most: float) -> list[float]:
    """The ticks of an axis with these ends."""
    return [tick for tick in TICKS if least <= tick <= most and (tick not in CLOSE or most < CROWDED)]


def _axes(panel: Any, rows: Sequence[Any], floor: float) -> None:
    least, most = limits(rows, floor)
    panel.set_xscale("log")
    panel.set_xlim(least, most)
    ticks = ticks_of(least, most)
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set_yticks([-height for height in range(len(rows))], [row.label for row in rows])
    panel.set_ylim(-len(rows) + 0.4, 0.6)
    papers = [row.paper for row in rows if row.paper is not None]
    marks = TOLD * bool(papers) + BEYOND * (not all(map(isfinite, papers)))
    panel.set_xlabel(f"Frechet distance, times the teacher's from the same noise (log scale){marks}", color=SOFT)
    panel.tick_params(length=0, colors=SOFT)
    panel.tick_params(axis="y", labelcolor=INK)
    panel.grid(color=HAIR, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)
