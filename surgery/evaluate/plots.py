"""Loss curves as SVG.

The drawings have no colours of their own besides the curves': axes and words take their colour from the page through
the classes `axis`, `grid` and `tick`, so that one drawing fits a light and a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 480, 268
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 28, 36
ACCENT, QUIET, LAST = "#c2410c", "#64748b", "#3b82a0"
"""Of what counts, of what it is compared with, and of the last of many curves, whose shades begin with the first."""
MOST = 3.4e38
MOST_POINTS = 400
"""More points than pixels only make the file large: longer curves are averaged in groups."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Points (x, y), x not negative, drawn as a line, as faint points or as rings, in a CSS colour.

    A line of a single point is a ring.
    """

    points: Sequence[Point]
    colour: str
    kind: Literal["line", "faint", "rings"] = "line"


@dataclass(frozen=True)
class _Axis:
    """Maps values from `low` to `high` to pixels from `start` to `end`, on a log scale or a linear one."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (self._scale(v) for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.log else value


def line_chart(curves: Sequence[Curve], x_title: str, label: str, y_title: str) -> str:
    """`curves` over common axes; the vertical one is logarithmic where the values span more than a factor of 8.

    Args:
        curves: with finite points only (see `finite`); later ones are drawn over earlier ones.
        x_title: what the horizontal axis counts.
        label: what the drawing shows, for those who cannot see it.
        y_title: what the vertical axis measures.

    Returns:
        an SVG element, or an empty string if there is no point.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        return ""
    x, y = _x_axis([p[0] for p in points]), _y_axis([p[1] for p in points])
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{_y_grid(y, y_title)}{_x_grid(x, x_title)}{''.join(_draw(curve, x, y) for curve in curves)}</svg>"
    )


def finite(points: Iterable[tuple[float, float | None]]) -> list[Point]:
    """Leave out the points without a value, and those whose value is not a number or more than float32 can hold."""
    return [(x, y) for x, y in points if y is not None and abs(y) < MOST]


def thin(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points: means of groups of neighbours."""
    size = -(-len(points) // MOST_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(math.fsum(x for x, _ in g) / len(g), math.fsum(y for _, y in g) / len(g)) for g in groups]


def smooth(points: Sequence[Point]) -> list[Point]:
    """A running mean over a tenth of the curve: over less at its start, where it is steep, and one-sided at its end."""
    smoothed = []
    for i, (x, _) in enumerate(points):
        reach = min(len(points) // 20, i)
        window = points[i - reach : i + reach + 1]
        smoothed.append((x, math.fsum(y for _, y in window) / len(window)))
    return smoothed


def shades(count: int, first: str, last: str) -> list[str]:
    """`count` colours from `first` to `last`, both as #rrggbb."""
    ends = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (first, last)]
    mixed = []
    for n in range(count):
        part = n / max(count - 1, 1)
        mixed.append("#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(*ends, strict=True)))
    return mixed


def _x_axis(values: Sequence[float]) -> _Axis:
    return _Axis(0, max(*values, 1), LEFT, WIDTH - RIGHT)


def _y_axis(values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    log = low > 0 and high > 8 * low
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - room, high + room
    return _Axis(low, high, HEIGHT - BOTTOM, TOP, log)


def _ticks(axis: _Axis, about: int) -> list[float]:
    return _log_ticks(axis) if axis.log else _linear_ticks(axis.low, axis.high, about)


def _log_ticks(axis: _Axis) -> list[float]:
    span = math.log10(axis.high) - math.log10(axis.low)
    decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    factors = (1, 2, 5) if span < 2 else (1, 3) if span < 3 else (1,)
    ticks = [float(f"{factor}e{decade}") for decade in decades[:: max(1, round(span / 5))] for factor in factors]
    return [tick for tick in ticks if axis.low <= tick <= axis.high]


def _linear_ticks(low: float, high: float, about: int) -> list[float]:
    raw = (high - low) / about
    if raw < 1e-300:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [n * step for n in range(first, last + 1)]


def _y_grid(y: _Axis, title: str) -> str:
    scale = ", log scale" if y.log else ""
    parts = [f'<text class="tick" x="2" y="12">{escape(title + scale)}</text>']
    for tick in _ticks(y, 5):
        at = f"{y(tick):.1f}"
        parts.append(
            f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{at}" dy=".35em" text-anchor="end">{_short(tick)}</text>'
        )
    return "".join(parts)


def _short(number: float) -> str:
    """A tick in few letters: 0.05, 12,500, 1.5 M, 2e-07."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if size <= abs(number) < 1e15:
            return f"{number / size:.4g} {unit}"
    return f"{number:,.6g}" if 1e-4 <= abs(number) < 1e6 or not number else f"{number:.3g}"


def _x_grid(x: _Axis, title: str) -> str:
    bottom = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>']
    for tick in _ticks(x, 5):
        if tick % 1:  # steps and layers are whole
            continue
        at = f"{x(tick):.1f}"
        anchor = "end" if x(tick) > WIDTH - RIGHT - 12 else "middle"
        parts.append(
            f'<path class="axis" d="M{at} {bottom}v4"/>'
            f'<text class="tick" x="{at}" y="{bottom + 17}" text-anchor="{anchor}">{tick:,.6g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    place = f'x="{middle:.0f}" y="{HEIGHT - 3}" text-anchor="middle"'
    return f'{"".join(parts)}<text class="tick" {place}>{escape(title)}</text>'


def _draw(curve: Curve, x: _Axis, y: _Axis) -> str:
    at = [(f"{x(a):.1f}", f"{y(b):.1f}") for a, b in curve.points]
    colour = escape(curve.colour)
    if curve.kind == "line" and len(at) > 1:
        path = "L".join(f"{a} {b}" for a, b in at)
        return f'<path class="line" stroke="{colour}" d="M{path}"/>'
    # A stroke of length zero with round caps is a dot: one path for all of them.
    dots = "".join(f"M{a} {b}h0" for a, b in at)
    rings = "".join(f'<circle class="ring" stroke="{colour}" cx="{a}" cy="{b}" r="3.5"/>' for a, b in at)
    return rings if curve.kind != "faint" else f'<path class="faint" stroke="{colour}" d="{dots}"/>'
