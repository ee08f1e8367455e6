"""Pieces of HTML. What is given as text is escaped, what is given as content is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

LISTED = 12
"""Longer lists are folded."""


def text(value: object) -> str:
    """Anything as escaped text."""
    return escape(str(value))


def section(title: str, content: str, note: str = "") -> str:
    """Content under a title and a note; nothing where there is no content."""
    if not content:
        return ""
    below = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{below}{content}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int, label: str) -> str:
    """A table of HTML cells that scrolls in its own box; the first `words` columns hold words, the others figures."""

    def row(cells: Sequence[str], tag: str) -> str:
        classes = ["" if i < words else ' class="n"' for i in range(len(cells))]
        return "".join(f"<{tag}{c}>{cell}</{tag}>" for c, cell in zip(classes, cells, strict=True))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<thead><tr>{row(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(items: Sequence[str], summary: str, css: str) -> str:
    """A list of `<li>`, folded under a summary if it is long."""
    listed = f'<ul class="{css}">{"".join(items)}</ul>'
    return listed if len(items) <= LISTED else f"<details><summary>{summary}</summary>{listed}</details>"


def figure(title: str, drawing: str, legend: str) -> str:
    """A drawing under its title, with a legend; nothing where there is no drawing."""
    if not drawing:
        return ""
    return f"<figure><figcaption><b>{text(title)}</b></figcaption>{drawing}{legend}</figure>"
