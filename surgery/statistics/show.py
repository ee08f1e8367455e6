"""The figures of an analysis as a table, and as a page with plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from surgery.evaluate.plots import Curve, finite, line_chart
from surgery.evaluate.style import STYLE
from surgery.files import write_atomically

COLUMNS = {
    "locality": "attention weight on keys at most k places away in raster order, L_k",
    "locality_2d": "the same for a disc of as many places on the grid of the image",
    "locality_3d": "the same for a ball of as many places on the grid of the video",
    "entropy": "of the attention of a query, in nats",
    "sink": "attention weight on the key that gets most",
    "key_mean": "norm of the mean key over the mean norm of keys: where it is near 1, keys need centring",
    "contribution": "norm of what the block adds over the norm of the stream: small where a block could go",
    "similarity": "cosine of the stream before and after the block: near 1 where two could run side by side",
}
"""The figures of a layer, and what each of them means."""

ADDED = {"attention": "attention adds", "mlp": "MLP adds"}
"""Operators by the end of their role, and the words for the norm of what they add over that of the stream."""
ACCENT = "var(--accent)"


def analysis_view(found: Mapping[str, Any]) -> Group:
    """A row for each layer, and below what the figures mean and what was run."""
    layers = found["layers"]
    names = _present(layers)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("layer", no_wrap=True)
    table.add_column("block", overflow="fold")
    for name in (*names, *ADDED.values()):
        table.add_column(name.replace("_", " "), justify="right")
    for layer in layers:
        added = (_cell(_added(layer, role)) for role in ADDED)
        table.add_row(str(layer["layer"]), layer["path"], *(_cell(layer.get(name)) for name in names), *added)
    lines = [Text(f"{name.replace('_', ' ')}: {COLUMNS[name]}", "dim") for name in names]
    lines.append(Text("attention adds, MLP adds: the same as contribution, of what these operators add", "dim"))
    return Group(table, *lines, Text(f"run by {found['driven_by']}", "dim"))


def write_analysis(found: Mapping[str, Any], folder: Path) -> None:
    """Write `analysis.json` and `analysis.html` into `folder`.

    Raises:
        SurgeryError: they cannot be written.
    """
    write_atomically(folder / "analysis.json", json.dumps(found, indent=2).encode() + b"\n")
    write_atomically(folder / "analysis.html", analysis_page(found).encode())


def analysis_page(found: Mapping[str, Any]) -> str:
    """A page with a plot of each figure over the layers, and a table."""
    layers = found["layers"]
    plots = "".join(f"<section><h2>{_title(name)}</h2>{plot_of(layers, name)}</section>" for name in _present(layers))
    title = f"Analysis of {found['model']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body><main>'
        f"<header><h1>{escape(title)}</h1><p class=note>Run by {escape(found['driven_by'])}.</p></header>"
        f"{plots}<section><h2>All figures</h2>{table_of(layers)}</section></main></body></html>"
    )


def plot_of(layers: Sequence[Mapping[str, Any]], name: str) -> str:
    """One figure over the layers, with a line that says what it means; an empty string if no layer has it."""
    points = finite((layer["layer"], layer.get(name)) for layer in layers)
    if not points:
        return ""
    chart = line_chart([Curve(points, ACCENT), Curve(points, ACCENT, "rings")], "layer", COLUMNS[name], _title(name))
    return f'<p class="note">{escape(COLUMNS[name].capitalize())}.</p>{chart}'


def table_of(layers: Sequence[Mapping[str, Any]]) -> str:
    """The figures of all layers as HTML."""
    names = _present(layers)
    heads = "".join(f"<th>{_title(name)}</th>" for name in ("layer", "block", *names))
    rows = "".join(
        f"<tr><td>{layer['layer']}</td><td><code>{escape(layer['path'])}</code></td>"
        + "".join(f'<td class="n">{_cell(layer.get(name))}</td>' for name in names)
        + "</tr>"
        for layer in layers
    )
    return f'<div class="box" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _added(layer: Mapping[str, Any], role: str) -> float | None:
    """The mean contribution of the layer's operators of a kind."""
    found = [o["contribution"] for o in layer["operators"] if o["role"].endswith(role) and "contribution" in o]
    return sum(found) / len(found) if found else None


def _present(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in COLUMNS if any(layer.get(name) is not None for layer in layers)]


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
