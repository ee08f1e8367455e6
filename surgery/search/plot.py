"""The frontier of a search as a drawing."""

from __future__ import annotations

from html import escape

from surgery.evaluate.plots import ACCENT, HEIGHT, QUIET, WIDTH, Curve, finite, line_chart
from surgery.evaluate.report.words import heading
from surgery.search.result import SearchResult

INK = "#1c1b19"
MARGIN, HEAD, GAP, FOOT = 16, 34, 40, 30
WORDS = {"latency": "latency", "flops": "FLOPs", "params": "parameters", "memory": "memory"}
STYLE = """
svg{color-scheme:light}text{font:11.5px system-ui,sans-serif}.title{font-size:13px;font-weight:600;fill:#1c1b19}
.tick,.note{fill:#6b6760}.grid,.axis,.line{fill:none}.grid{stroke:#e4e0d9}.axis{stroke:#6b6760}
.line{stroke-width:1.9;stroke-linejoin:round}.ring{stroke-width:1.8;fill:#fdfcfa}.paper{fill:#fdfcfa}
"""


def pareto_svg(found: SearchResult) -> str:
    """Estimated harm, and beside it the metric of the finetuned shortlist, over the first limited cost."""
    name, limited = next(iter(found.budget.items()))
    scale = 100 / limited.teacher
    title = f"{WORDS[name]}, % of the teacher's"
    shares = [scale * each.cost[name] for each in found.shortlist]
    harms = [
        Curve([(scale * cost, harm) for cost, harm in found.frontier], QUIET),
        Curve([(share, each.harm) for share, each in zip(shares, found.shortlist, strict=True)], INK, "rings"),
        Curve([(shares[found.chosen], found.best.harm)], ACCENT, "rings"),
    ]
    values = [(share, each.metrics.get(found.metric)) for share, each in zip(shares, found.shortlist, strict=True)]
    judged = [
        Curve(finite([(100.0, found.teacher.get(found.metric))]), QUIET, "rings"),
        Curve(finite(values), INK, "rings"),
        Curve(finite([values[found.chosen]]), ACCENT, "rings"),
    ]
    metric = found.columns[found.metric].title
    panels = (
        ("Estimated harm of the edits", line_chart(harms, title, f"estimated harm by {title}", "estimated harm")),
        (
            f"{heading(metric)} after a short finetuning",
            line_chart(judged, title, f"{metric} by {title}", metric),
        ),
    )
    return _page(panels)


def _page(panels: tuple[tuple[str, str], ...]) -> str:
    width = 2 * MARGIN + len(panels) * WIDTH + (len(panels) - 1) * GAP
    height = HEAD + HEIGHT + FOOT
    drawn = "".join(_panel(MARGIN + n * (WIDTH + GAP), head, chart) for n, (head, chart) in enumerate(panels))
    note = "line: the least harm at each cost; rings: the shortlist, the chosen set in orange; at 100 the teacher"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="harm and quality by cost"><style>{STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>{drawn}'
        f'<text class="note" x="{MARGIN}" y="{height - 8}">{note}</text></svg>\n'
    )


def _panel(left: int, title: str, chart: str) -> str:
    return (
        f'<text class="title" x="{left}" y="20">{escape(title)}</text>'
        f'<svg x="{left}" y="{HEAD - 6}" width="{WIDTH}" height="{HEIGHT}">{chart}</svg>'
    )
