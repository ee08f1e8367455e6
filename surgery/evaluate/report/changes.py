"""What a plan did and left, in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.evaluate.report.html import LISTED, table, text
from surgery.evaluate.report.words import count, percent


def changes_of(graph_svg: str, edits: Sequence[Mapping[str, Any]]) -> str:
    """The drawing of the model, and a table of the edits; see `surgery.evaluate.report.Report`."""
    drawing = f'<div class="box drawing" tabindex="0" role="region" aria-label="drawing">{graph_svg}</div>'
    return (drawing if graph_svg else "") + (_edits(edits) if edits else "")


def _edits(edits: Sequence[Mapping[str, Any]]) -> str:
    head = ("Site", "Rule", "Change", "Parameters", "FLOPs")
    rows = [
        (
            f"<code>{text(edit['path'])}</code>",
            text(edit["rule"]),
            f"<s>{text(edit['replaced'])}</s><br><code>{text(edit['operator'])}</code>",
            _change(edit["params"]),
            _change(edit["flops"]),
        )
        for edit in edits
    ]
    listed = table(head, rows, 3, "edits")
    return listed if len(rows) <= LISTED else f"<details><summary>{len(rows)} edits</summary>{listed}</details>"


def _change(counts: Mapping[str, Any]) -> str:
    before, after = counts["before"], counts["after"]
    if before == after:
        return count(after)
    below = f"<br><small>{percent(after, before)}</small>" if before else ""
    return f'{count(before)} <span class="to">→</span> {count(after)}{below}'


def skipped_of(skipped: Sequence[Mapping[str, Any]]) -> str:
    """The sites left alone, by reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in skipped:
        groups.setdefault((str(each["reason"]), str(each["rule"])), []).append(str(each["path"]))
    parts = []
    for (reason, rule), paths in groups.items():
        items = "".join(f"<li><code>{text(path)}</code></li>" for path in paths)
        sites = "1 site" if len(paths) == 1 else f"{len(paths)} sites"
        parts.append(
            f"<details><summary>{text(reason)}: {sites} <small>{text(rule)}</small></summary>"
            f'<ul class="paths">{items}</ul></details>'
        )
    return "".join(parts)
