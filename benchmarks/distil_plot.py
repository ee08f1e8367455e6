"""Draws loss and Frechet distance of each distilled operator as dots, one for each policy, joined by a hair line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from growth_plot import HAIR, INK, PAPER, SOFT

COLOURS = {"random": "#c2410c", "projections": "#2f6f9f", "exact": "#2f6f9f"}
MARKS = {"random": "o", "projections": "o", "exact": "D"}
LABELS = {"random": "random", "projections": "projections", "exact": "projections, exact"}
PANELS = (
    ("loss", "held-out loss", "share of that of zeros; L1 for attention, L2 for MLPs"),
    ("frechet", "Frechet distance", "after stage 1"),
)
GAP = 1.0
"""Between attention and MLPs, in rows."""


def draw(figures: dict[str, Any], path: Path) -> Path:
    """Write the picture to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    heights = _heights(figures["rows"])
    with plt.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure, panels = plt.subplots(1, 2, figsize=(10.4, 0.27 * len(heights) + 1.6), facecolor=PAPER, sharey=True)
        for panel, (what, title, unit) in zip(panels, PANELS, strict=True):
            _panel(panel, figures["rows"], heights, what, title, unit)
        _reference(panels[1], figures["teacher"]["frechet"])
        panels[0].set_yticks(list(heights.values()), list(heights))
        panels[0].legend(
            *_legend(), loc="lower left", bbox_to_anchor=(0, -0.12), ncols=3, frameon=False, labelcolor=INK,
            handletextpad=0.2, columnspacing=1.4, borderaxespad=0,
        )  # fmt: skip
        figure.savefig(path, dpi=160, facecolor=PAPER, bbox_inches="tight", pad_inches=0.15)
        plt.close(figure)
    return path


def _heights(rows: dict[str, Any]) -> dict[str, float]:
    first = next(iter(rows.values()))["replaces"]
    return {name: -i - GAP * (row["replaces"] != first) for i, (name, row) in enumerate(rows.items())}


def _panel(panel: Any, rows: dict[str, Any], heights: dict[str, float], what: str, title: str, unit: str) -> None:
    panel.set_facecolor(PAPER)
    for name, row in rows.items():
        _dots(panel, {p: cell[what] for p, cell in row["policies"].items() if what in cell}, heights[name])
    panel.set_title(title, loc="left", color=INK, fontsize=11.5, fontweight="bold", pad=20)
    panel.text(0, 1.012, unit, transform=panel.transAxes, color=SOFT, va="bottom")
    panel.tick_params(length=0, colors=SOFT)
    panel.tick_params(axis="y", labelcolor=INK)
    panel.grid(axis="x", color=HAIR, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _dots(panel: Any, found: dict[str, float], height: float) -> None:
    panel.plot([found["random"], found["projections"]], [height, height], color=SOFT, linewidth=0.8, zorder=2)
    for policy, value in found.items():
        if policy != "projections" or "exact" not in found:
            panel.plot(value, height, zorder=3, clip_on=False, **_look(policy))


def _look(policy: str) -> dict[str, Any]:
    return {
        "marker": MARKS[policy],
        "markersize": 6.5,
        "markerfacecolor": PAPER if policy == "random" else COLOURS[policy],
        "markeredgecolor": COLOURS[policy],
        "markeredgewidth": 1.6,
        "linestyle": "none",
    }


def _legend() -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], **_look(policy)) for policy in LABELS], list(LABELS.values())


def _reference(panel: Any, teacher: float) -> None:
    """The teacher's distance, as a line."""
    panel.axvline(teacher, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
    panel.annotate(
        f"teacher {teacher:.2f}", (teacher, 0), xycoords=panel.get_xaxis_transform(), xytext=(0, -16),
        textcoords="offset points", color=INK, ha="center", va="top",
    )  # fmt: skip
