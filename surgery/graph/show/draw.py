"""Draws the blocks of a model and what a plan changes in them, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from surgery.analysis.roles import Operator
from surgery.graph.model_graph import ModelGraph

WIDTH, HEADER, ROW, GAP, COLUMNS = 128, 24, 42, 26, 6
TITLES = {
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "joint_attention": "joint attention",
    "mlp": "MLP",
}

STYLE = """
.s-block{fill:none;stroke:currentColor;stroke-opacity:.28}
.s-new-block{fill:#c2410c;fill-opacity:.07;stroke:#c2410c}
.s-label{fill:#c2410c;font:500 10px system-ui,sans-serif;text-anchor:end}
.s-wire{stroke:currentColor;stroke-opacity:.4;fill:none;stroke-width:1.25}
.s-op{fill:currentColor;fill-opacity:.07}
.s-new{fill:#c2410c;fill-opacity:.16;stroke:#c2410c}
.s-name{fill:currentColor;font:500 11px system-ui,sans-serif;text-anchor:middle}
.s-head{fill:currentColor;fill-opacity:.6;font:11px system-ui,sans-serif}
.s-old{fill:currentColor;fill-opacity:.55;font:9.5px system-ui,sans-serif;text-anchor:middle;text-decoration:line-through}
"""


def draw_blocks(graph: ModelGraph, changed: Mapping[str, str]) -> str:
    """An SVG of every block in execution order with its attention and MLP operators.

    Args:
        graph: the traced teacher.
        changed: path of a replaced operator, or of blocks, joined by " + ", that are called otherwise -> what stands
            there now; these are highlighted.
    """
    changed = {path: new for paths, new in changed.items() for path in paths.split(" + ")}
    blocks = graph.layers
    inside: dict[int, list[Operator]] = {number: [] for number in blocks.values()}
    for operator in graph.operators():
        if operator.layer is not None and operator.role in TITLES:
            inside[operator.layer].append(operator)
    height = HEADER + ROW * max((len(v) for v in inside.values()), default=1) + 8
    columns = min(COLUMNS, max(len(blocks), 1))
    rows = -(-len(blocks) // columns)
    size = (columns * (WIDTH + GAP) - GAP + 2, rows * (height + GAP) - GAP + 2)
    parts = [_block(path, n, inside[n], changed, height) for path, n in blocks.items()]
    wires = [_wire(n, columns, height) for n in range(1, len(blocks))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {size[0]} {size[1]}" width="{size[0]}" role="img" '
        f'aria-label="blocks of the model; replaced operators are highlighted"><style>{STYLE}</style>'
        f"{''.join(wires)}{''.join(parts)}</svg>"
    )


def _corner(number: int, columns: int, height: int) -> tuple[int, int]:
    """Where the upper left corner of a block is."""
    return number % columns * (WIDTH + GAP), number // columns * (height + GAP)


def _block(path: str, number: int, operators: list[Operator], changed: Mapping[str, str], height: int) -> str:
    x, y = _corner(number, COLUMNS, height)
    new = changed.get(path)
    label = "" if new is None else f'<text class="s-label" x="{WIDTH - 10}" y="16">{escape(new)}</text>'
    pills = "".join(_pill(o, changed.get(o.path), HEADER + i * ROW) for i, o in enumerate(operators))
    return (
        f'<g transform="translate({x},{y})"><title>{escape(path)}</title>'
        f'<rect class="s-{"new-" if new else ""}block" width="{WIDTH}" height="{height}" rx="8"/>'
        f'<text class="s-head" x="10" y="16">block {number}</text>{label}{pills}</g>'
    )


def _pill(operator: Operator, new: str | None, y: int) -> str:
    """An operator: its name, or the old one struck out above the new one."""
    title, middle = TITLES[operator.role], WIDTH / 2
    box = f'<rect class="s-{"new" if new else "op"}" x="8" y="{y}" width="{WIDTH - 16}" height="{ROW - 6}" rx="6"/>'
    if new is None:
        return f'{box}<text class="s-name" x="{middle}" y="{y + 22}">{escape(title)}</text>'
    return (
        f'{box}<text class="s-old" x="{middle}" y="{y + 14}">{escape(title)}</text>'
        f'<text class="s-name" x="{middle}" y="{y + 28}">{escape(new)}</text>'
    )


def _wire(number: int, columns: int, height: int) -> str:
    """From block `number - 1` to block `number`."""
    (x0, y0), (x1, y1) = _corner(number - 1, columns, height), _corner(number, columns, height)
    middle = height // 2
    if y0 == y1:
        return f'<path class="s-wire" d="M{x0 + WIDTH} {y0 + middle}H{x1}"/>'
    turn = y0 + height + GAP // 2
    return f'<path class="s-wire" d="M{x0 + WIDTH // 2} {y0 + height}V{turn}H{x1 + WIDTH // 2}V{y1}"/>'
