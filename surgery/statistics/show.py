"""The figures of an analysis as a table, and as a page with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from surgery.evaluate.report.html import charts, document, section, table, text
from surgery.evaluate.report.layers import analysis_figures
from surgery.evaluate.report.words import heading
from surgery.files import write_atomically, write_json

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


def analysis_view(found: Mapping[str, Any]) -> Group:
    """A row for each layer, and below what the figures mean and what was run."""
    titles, rows = _rows(found["layers"])
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    view.add_column("layer", no_wrap=True)
    view.add_column("block", overflow="fold")
    for title in titles:
        view.add_column(title, justify="right")
    for row in rows:
        view.add_row(*row)
    lines = [Text(f"{name.replace('_', ' ')}: {COLUMNS[name]}", "dim") for name in _present(found["layers"])]
    lines.append(Text("attention adds, MLP adds: the same as contribution, of what these operators add", "dim"))
    lines += [Text(line) for line in _missing(found["layers"])]
    return Group(view, *lines, Text(f"run by {found['driven_by']}", "dim"))


def write_analysis(found: Mapping[str, Any], folder: Path) -> None:
    """Write `analysis.json` and `analysis.html` into `folder`.

    Raises:
        SurgeryError: they cannot be written.
    """
    write_json(folder / "analysis.json", found)
    write_atomically(folder / "analysis.html", analysis_page(found).encode())


def analysis_page(found: Mapping[str, Any]) -> str:
    """A page with a table of the figures, and a plot of each over the layers."""
    layers = found["layers"]
    shown = [{"layer": layer["layer"], **{name: layer.get(name) for name in _present(layers)}} for layer in layers]
    plots = charts(analysis_figures(shown, COLUMNS))
    missing = " ".join(_missing(layers))
    content = section("Figures of each layer", table_of(layers), text(missing)) + section("Over the layers", plots)
    return document(
        f"Analysis of {found['model']}", "Analysis", f"<p class=note>Run by {text(found['driven_by'])}.</p>", content
    )


def table_of(layers: Sequence[Mapping[str, Any]]) -> str:
    """The figures of all layers as HTML."""
    titles, rows = _rows(layers)
    content = [(number, f"<code>{text(path)}</code>", *figures) for number, path, *figures in rows]
    return table([heading(each) for each in ("layer", "block", *titles)], content, 2, "figures of each layer")


def _rows(layers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The titles of the figures that there are, and of each layer its number, its path and these figures."""
    names, rows = _present(layers), list[tuple[str, ...]]()
    for layer in layers:
        figures = (*(layer.get(name) for name in names), *(_added(layer, role) for role in ADDED))
        words = ("" if value is None else f"{value:.3f}" for value in figures)
        rows.append((str(layer["layer"]), layer["path"], *words))
    return [*(name.replace("_", " ") for name in names), *ADDED.values()], rows


def _missing(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each kind of figure that layers do not have, with the reason."""

    def silent(layer: Mapping[str, Any]) -> bool:
        return any(o["role"].endswith("attention") and "entropy" not in o for o in layer["operators"])

    def gridless(layer: Mapping[str, Any]) -> bool:
        return layer.get("locality") is not None and not any(layer.get(f"locality_{n}d") for n in (2, 3))

    def unstreamed(layer: Mapping[str, Any]) -> bool:
        return layer.get("contribution") is None

    reasons = {
        silent: "attention without figures, as no softmax of queries and keys was seen in it",
        gridless: "no locality on a grid, as it cannot be told which one the tokens lie on",
        unstreamed: "no contribution and similarity, as it cannot be told which inputs the block adds to",
    }
    without = {reason: [str(each["layer"]) for each in layers if lacks(each)] for lacks, reason in reasons.items()}
    lines = [
        f"Layer{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {reason}."
        for reason, numbers in without.items()
        if numbers
    ]
    return lines if layers else ["No layers were found: blocks that are alike, one after the other."]


def _added(layer: Mapping[str, Any], role: str) -> float | None:
    """The mean contribution of the layer's operators of a kind."""
    found = [o["contribution"] for o in layer["operators"] if o["role"].endswith(role) and "contribution" in o]
    return fmean(found) if found else None


def _present(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in COLUMNS if any(layer.get(name) is not None for layer in layers)]
