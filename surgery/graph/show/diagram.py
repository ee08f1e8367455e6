"""Draws a model from top to bottom as SVG: operators on the streams they join; blocks that are alike stand once.

What stands inside an operator, such as the norm of an attention's queries, is not drawn.
"""

from __future__ import annotations

from html import escape

from surgery.graph.show.tree import Entry
from surgery.recording.paths import below, parent_and_name

WIDTH, ROW, PILL, HEADER, INDENT, GAP = 560, 34, 26, 30, 26, 10

COLOURS = {
    "self_attention": "#c2410c",
    "cross_attention": "#b45309",
    "joint_attention": "#be123c",
    "sequence_mixer": "#be185d",
    "mlp": "#1d4ed8",
    "norm": "#64748b",
    "modulation": "#7e22ce",
    "embedding": "#047857",
}

STYLE = """
.g-block{fill:currentColor;fill-opacity:.025;stroke:currentColor;stroke-opacity:.25}
.g-wire{stroke:currentColor;stroke-opacity:.45;fill:none;stroke-width:1.4}
.g-sum{fill:none;stroke:currentColor;stroke-width:1.4}
.g-title{fill:currentColor;font:600 12px system-ui,sans-serif}
.g-name{fill:currentColor;font:11.5px system-ui,sans-serif}
.g-note{fill:currentColor;fill-opacity:.6;font:10.5px system-ui,sans-serif}
.g-right{text-anchor:end}
"""


def draw_model(top: Entry) -> str:
    """An SVG of the whole model, `top` being its tree of operators."""
    height, inside = _column(top.children, 0, HEADER, WIDTH)
    total = HEADER + height
    title = f'<text class="g-title" x="0" y="14">{escape(top.module_class)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -8 {WIDTH + 24} {total + 16}" width="{WIDTH + 24}" '
        f'height="{total + 16}" role="img" color="#1f2937" aria-label="operators of {escape(top.module_class)}">'
        f"<style>{STYLE}</style>{title}{inside}</svg>"
    )


def _column(entries: list[Entry], x: int, y: int, width: int) -> tuple[int, str]:
    """Entries below each other along a stream that runs at their left; their height, and the drawing."""
    parts, top, is_branch = [], y, False
    for entry in entries:
        height, part = _sum(x, y, is_branch) if _is_sum(entry) else _entry(entry, x, y, width)
        is_branch = entry.operator is not None and not _is_sum(entry)
        parts.append(part)
        y += height
    wire = f'<path class="g-wire" d="M{x + GAP} {top}V{y}"/>' if entries else ""
    return y - top, wire + "".join(parts)


def _entry(entry: Entry, x: int, y: int, width: int) -> tuple[int, str]:
    """The height and drawing of one entry."""
    if entry.operator is not None:
        return ROW, _operator(entry, x + INDENT, y, width - INDENT)
    if entry.count == 1 and not entry.module_class and all(child.operator is None for child in entry.children):
        return _column(entry.children, x, y, width)  # a list of blocks
    return _block(entry, x, y, width)


def _block(entry: Entry, x: int, y: int, width: int) -> tuple[int, str]:
    """A box around what is inside, under a title."""
    inner, drawing = _column(entry.children, x + INDENT // 2, y + HEADER, width - INDENT)
    height = HEADER + inner + GAP // 2
    count = f"{entry.count} x " if entry.count > 1 else ""
    box = f'<rect class="g-block" x="{x}" y="{y}" width="{width}" height="{height}" rx="9"/>'
    title = f'<text class="g-title" x="{x + 28}" y="{y + 20}">{count}{escape(entry.module_class or entry.name)}</text>'
    path = f'<text class="g-note g-right" x="{x + width - 12}" y="{y + 20}">{escape(_path(entry))}</text>'
    return height + GAP, box + title + path + drawing


def _operator(entry: Entry, x: int, y: int, width: int) -> str:
    assert entry.operator is not None
    role = entry.operator.role
    colour, middle = COLOURS[role], y + PILL // 2
    shape = " x ".join(map(str, entry.operator.out_shape))
    return (
        f'<path class="g-wire" d="M{x - INDENT + GAP} {middle}H{x}"/>'
        f'<rect x="{x}" y="{y}" width="{width - GAP}" height="{PILL}" rx="6" fill="{colour}" fill-opacity=".10" '
        f'stroke="{colour}" stroke-opacity=".55"/>'
        f'<text class="g-name" x="{x + 10}" y="{y + 17}" style="fill:{colour};font-weight:600">'
        f"{role.replace('_', '-')}</text>"
        f'<text class="g-name" x="{x + 120}" y="{y + 17}">{escape(entry.name)}</text>'
        f'<text class="g-note" x="{x + 240}" y="{y + 17}">{escape(entry.module_class)}</text>'
        f'<text class="g-note g-right" x="{x + width - GAP - 10}" y="{y + 17}">{shape}</text>'
    )


def _is_sum(entry: Entry) -> bool:
    return entry.operator is not None and entry.operator.role == "residual"


def _sum(x: int, y: int, is_branch: bool) -> tuple[int, str]:
    """An addition to the stream, of what the operator above gives if there `is_branch`."""
    centre, middle = x + GAP, y + PILL // 2
    branch = f"M{x + INDENT + 14} {y - ROW + PILL}V{middle}H{centre + 7}" if is_branch else ""
    return ROW, (
        f'<circle class="g-sum" cx="{centre}" cy="{middle}" r="7"/>'
        f'<path class="g-wire" d="M{centre - 7} {middle}H{centre + 7}M{centre} {middle - 7}V{middle + 7}{branch}"/>'
    )


def _path(entry: Entry) -> str:
    return below(parent_and_name(entry.path)[0], entry.name)
