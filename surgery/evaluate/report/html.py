"""Pieces of HTML. What is given as text is escaped, what is given as content is not."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

from surgery.evaluate.style import STYLE

LISTED = 12
"""Longer lists are folded."""
MANY = 9
"""Tables of more columns are set tighter."""


def text(value: object) -> str:
    """Anything as escaped text."""
    return escape(str(value))


def document(title: str, over: str, header: str, content: str) -> str:
    """A page that holds all that it shows, and asks the browser to run no script and to fetch nothing.

    Args:
        title: of the page.
        over: a few words above it.
        header: what follows the title.
        content: the sections.

    Returns:
        HTML that can be encoded as UTF-8.
    """
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<header><p class="over">{text(over)}</p><h1>{text(title)}</h1>{header}</header>'
        f"{content}</main></body></html>\n"
    )
    # A lone surrogate, as in a file name that is not UTF-8, could not be written to a file.
    return page.encode("utf-8", "replace").decode()


def section(title: str, content: str, note: str = "") -> str:
    """Content under a title and a note; nothing where there is no content."""
    if not content:
        return ""
    below = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{title}</h2>{below}{content}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int, label: str) -> str:
    """A table of HTML cells; the first `words` columns hold words, the others figures.

    On a narrow screen each row becomes a list of its cells, each after the title of its column.
    """

    classes = ["" if i < words else ' class="n"' for i in range(len(head))]
    plain = [f' data-title="{re.sub("<[^>]*>", "", title)}"' if i else "" for i, title in enumerate(head)]

    def cell(i: int, content: str) -> str:
        return f"<td{classes[i]}{plain[i]}>{content}</td>"

    titles = "".join(f"<th{css}>{title}</th>" for css, title in zip(classes, head, strict=True))
    body = "".join(f"<tr>{''.join(cell(i, each) for i, each in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{text(label)}">'
        f"<table{' class=many' if len(head) > MANY else ''}>"
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(items: Sequence[str], summary: str, css: str) -> str:
    """A list of `<li>`, folded under a summary if it is long."""
    listed = f'<ul class="{css}">{"".join(items)}</ul>'
    return listed if len(items) <= LISTED else f"<details><summary>{summary}</summary>{listed}</details>"


def figure(title: str, drawing: str, legend: str = "", note: str = "") -> str:
    """A drawing under its title, with a legend and what it means; nothing where there is no drawing."""
    if not drawing:
        return ""
    below = f'<p class="note">{text(note)}</p>' if note else ""
    return f"<figure><figcaption><b>{text(title)}</b></figcaption>{drawing}{legend}{below}</figure>"


def charts(figures: Iterable[str]) -> str:
    """Figures side by side, those that are none left out."""
    shown = "".join(figures)
    return f'<div class="charts">{shown}</div>' if shown else ""


def definitions(listed: Iterable[tuple[str, str]], css: str = "notes") -> str:
    """Terms, which are text, each with the content that belongs to it; those without are left out."""
    items = "".join(f"<dt>{text(term)}</dt><dd>{content}</dd>" for term, content in listed if content)
    return f'<dl class="{css}">{items}</dl>' if items else ""


def picture(png: bytes, label: str) -> str:
    """A PNG as part of the page; its size keeps the place."""
    return f'<img alt="{text(label)}"{_size(png)} src="data:image/png;base64,{b64encode(png).decode()}">'


def _size(png: bytes) -> str:
    """The attributes that keep a place for the picture, from the PNG's header."""
    if len(png) < 24 or png[12:16] != b"IHDR":
        return ""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return f' width="{width}" height="{height}"'
