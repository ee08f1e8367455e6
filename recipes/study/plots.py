"""Draws students as dots by how far they are from their teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAPER, INK, SOFT, HAIR, BLUE = "#fcfcfb", "#2b2b2b", "#6b6b6b", "#dedede", "#2f6f9f"
EDGE = 5.0
"""What the paper has above it is an arrow there."""
TICKS = (1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
CROWDED = 3.0
"""An axis that goes as far has no room for two ticks so near each other."""


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
                mark = {"marker": "D" if row.paper < EDGE else ">", "facecolor": PAPER, "edgecolor": SOFT}
                panel.scatter(min(row.paper, EDGE), -height, s=22, zorder=2, **mark)
            side = {"xycoords": ("axes fraction", "data"), "va": "center", "color": INK}
            panel.annotate(f"{row.ratio:.2f}", (1.01, -height), **side)
        _axes(panel, rows, floor)
        figure.savefig(path, dpi=140, facecolor=PAPER, bbox_inches="tight", pad_inches=0.15)
        plt.close(figure)


def _axes(panel: Any, rows: Sequence[Any], floor: float) -> None:
    most = 1.25 * max(max(row.ratio + 2 * row.error, min(row.paper or 1, EDGE)) for row in rows)
    least = min(1 - 3 * floor, *(row.ratio - 2 * row.error for row in rows))
    panel.set_xscale("log")
    panel.set_xlim(0.97 * max(least, 0.5), max(most, 1.3))
    ticks = [tick for tick in TICKS if tick <= max(most, 1.3) and (tick != 1.1 or most < CROWDED)]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set_yticks([-height for height in range(len(rows))], [row.label for row in rows])
    panel.set_ylim(-len(rows) + 0.4, 0.6)
    panel.set_xlabel("Frechet distance, times the teacher's from the same noise (log scale)", color=SOFT)
    panel.tick_params(length=0, colors=SOFT)
    panel.tick_params(axis="y", labelcolor=INK)
    panel.grid(color=HAIR, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)
