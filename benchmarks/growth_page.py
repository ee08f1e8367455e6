"""The table of docs/operators.md, from the figures of `operators.py` on a CPU."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"
BEGIN, END = "<!-- growth -->\n", "<!-- /growth -->\n"

Rows = dict[str, dict[str, dict[str, float]]]


def table(rows: Rows) -> str:
    """Speed-ups at each size, and time and peak at the largest."""
    sizes = list(rows["full"])
    largest = f"{int(sizes[-1]):,}"
    head = ["operator", *(f"{int(n):,} tokens" for n in sizes), f"time at {largest}", f"peak at {largest}"]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        last = row[sizes[-1]]
        ratios = [f"{row[n]['speedup']:.1f} x" for n in sizes]
        lines.append([name.replace("_", " "), *ratios, f"{last['seconds']:.2f} s", f"{last['peak_mb']:,.0f} MB"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(rows: Rows, page: Path = PAGE) -> Path:
    """Put the table between its marks in the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + table(rows) + END + after)
    return page
