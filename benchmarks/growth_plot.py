"""Draws time and peak memory against the number of tokens, log-log, with the names at the ends of their lines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

Rows = dict[str, dict[str, dict[str, float]]]

PAPER, INK, SOFT, HAIR = "#fdfcfa", "#1c1b19", "#6b6760", "#e4e0d9"
COLOURS = {
    "full": INK,
    "grouped_query": "#8a857c",
    "neighbourhood": "#2f6f9f",
    "neighbourhood_strided": "#7f9fc4",
    "window": "#4c9bc9",
    "blend": "#0f766e",
    "sparse_linear": "#b45309",
    "ttt": "#be185d",
    "ttt_gated": "#e27aa6",
    "gated_delta": "#4338ca",
    "mamba2_both_ways": "#6a4c93",
    "mamba2": "#9b7fc0",
    "linear_learned": "#2a7f62",
    "linear": "#58b08c",
    "hyena_se": "#9a3412",
    "hyena_x": "#c2410c",
    "hyena_y": "#ee9a5c",
}
PANELS = (("seconds", "time of one forward pass", "s"), ("peak_mb", "peak memory above weights and input", "MB"))
APART, HIGHEST = 0.047, 1.02
"""Least distance of two names, and where the topmost may stand, as parts of the height."""


def draw(rows: Rows, path: Path) -> list[Path]:
    """Write path.png and path.svg."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    style = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "surgery", "svg.fonttype": "none"}
    with plt.rc_context(style):
        figure, panels = plt.subplots(1, 2, figsize=(11.6, 5.0), facecolor=PAPER)
        for panel, (what, title, unit) in zip(panels, PANELS, strict=True):
            _panel(panel, rows, what, title, unit)
        figure.subplots_adjust(left=0.055, right=0.84, top=0.86, bottom=0.1, wspace=0.62)
        files = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
        for file in files:
            figure.savefig(file, dpi=200, facecolor=PAPER, metadata={"Date": None} if file.suffix == ".svg" else None)
        plt.close(figure)
    return files


def _panel(panel: Any, rows: Rows, what: str, title: str, unit: str) -> None:
    panel.set(xscale="log", yscale="log", facecolor=PAPER)
    for name, row in rows.items():
        _line(panel, name, row, what)
    _axes(panel, [int(n) for n in rows["full"]], title, unit)
    _names(panel, {name: list(row.values())[-1][what] for name, row in rows.items()}, max(map(int, rows["full"])))


def _line(panel: Any, name: str, row: dict[str, dict[str, float]], what: str) -> None:
    strong = name == "full"
    values = [each[what] for each in row.values()]
    panel.plot(
        [int(n) for n in row], values, color=_colour(name), linewidth=2.4 if strong else 1.6, marker="o",
        markersize=4.5 if strong else 3.6, markeredgecolor=PAPER, markeredgewidth=0.8, solid_capstyle="round",
        linestyle=(0, (4, 2)) if "[" in name else "-", zorder=4 if strong else 3, clip_on=False,
    )  # fmt: skip


def _axes(panel: Any, sizes: list[int], title: str, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    panel.set_title(title, loc="left", color=INK, fontsize=11.5, fontweight="semibold", pad=22)
    panel.text(0, 1.025, unit, transform=panel.transAxes, color=SOFT)
    panel.set_xticks(sizes, [f"{n:,}" for n in sizes])
    panel.set_xlabel("tokens", color=SOFT, loc="right")
    panel.set_xlim(min(sizes) * 0.9, max(sizes) * 1.06)
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.tick_params(which="both", length=0, colors=SOFT)
    panel.grid(axis="y", which="major", color=HAIR, linewidth=0.8)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(SOFT)


def _names(panel: Any, ends: dict[str, float], tokens: int) -> None:
    """Each name at the height of its line's end, moved apart where they would touch, with a hair line back."""
    low, high = (math.log(limit) for limit in panel.get_ylim())
    wanted = {name: (math.log(end) - low) / (high - low) for name, end in ends.items()}
    for name, height in _apart(wanted).items():
        panel.annotate(
            name.replace("_", " "), (tokens, ends[name]), xytext=(1.075, height), textcoords="axes fraction",
            color=_colour(name), va="center", fontweight="bold" if name == "full" else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": _colour(name), "linewidth": 0.6, "alpha": 0.5, "shrinkA": 2,
                        "shrinkB": 4, "relpos": (0, 0.5)},
        )  # fmt: skip


def _apart(wanted: dict[str, float]) -> dict[str, float]:
    """Heights at least APART from each other, near the wanted ones, none above HIGHEST; those that touch are centred."""
    groups: list[list[str]] = []
    for name in sorted(wanted, key=wanted.__getitem__):
        groups.append([name])
        while len(groups) > 1 and _bottom(groups[-1], wanted) - _top(groups[-2], wanted) < APART:
            last = groups.pop()
            groups[-1] += last
    return {name: _bottom(group, wanted) + APART * place for group in groups for place, name in enumerate(group)}


def _bottom(group: list[str], wanted: dict[str, float]) -> float:
    tall = APART * (len(group) - 1)
    return min(sum(wanted[name] for name in group) / len(group) - tall / 2, HIGHEST - tall)


def _top(group: list[str], wanted: dict[str, float]) -> float:
    return _bottom(group, wanted) + APART * (len(group) - 1)


def _colour(name: str) -> str:
    return COLOURS.get(name.partition("[")[0], SOFT)
