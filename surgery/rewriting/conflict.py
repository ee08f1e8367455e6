"""Conflicts between edits, found before any of them is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from surgery.config import Config
from surgery.recording.paths import outers
from surgery.rewriting.edit import Edit, below
from surgery.rewriting.replacement import Resizing, Rewiring, parse


class Conflict(Config):
    """Two edits that claim the same thing, or one inside the other; or whose order would matter.

    Attributes:
        paths: of the two edits.
        rules: names of their rules.
        kind: "overlap", or "order" if the first copies what the second changes.
    """

    paths: tuple[str, str]
    rules: tuple[str, str]
    kind: Literal["overlap", "order"] = "overlap"

    def __str__(self) -> str:
        a, b = self.rules
        if self.kind == "order":
            return f"{a} copies {self.paths[0]}, which {b} changes at {self.paths[1]}, so their order matters"
        same = self.paths[0] == self.paths[1]
        where = self.paths[0] if same else f"{self.paths[0]} and {self.paths[1]}, which overlap"
        return f"{a} and {b} both edit {where}"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.kind == "order":
            return "apply them one after the other, by two calls of rewrite"
        return "narrow the layers of one of them"


def find_conflicts(edits: Sequence[Edit]) -> list[Conflict]:
    """Overlaps first, each pair of edits at most once."""
    found: dict[tuple[int, int], Conflict] = {}
    for a, b in _overlaps(edits):
        pair = (min(a, b), max(a, b))
        first, second = edits[a], edits[b]
        found.setdefault(pair, _conflict(first, second, "overlap"))
    for a, b in _orders(edits):
        if (min(a, b), max(a, b)) not in found:
            found[min(a, b), max(a, b)] = _conflict(edits[a], edits[b], "order")
    return list(found.values())


def _conflict(first: Edit, second: Edit, kind: Literal["overlap", "order"]) -> Conflict:
    return Conflict(paths=(first.path, second.path), rules=(first.rule, second.rule), kind=kind)


def _overlaps(edits: Sequence[Edit]) -> Iterator[tuple[int, int]]:
    """Edits that claim the same module or node, and those of something inside a module that another one replaces.

    Inside a module that another one resizes, too, or right after one: sizes are proven as they were before.
    """
    modules: dict[str, int] = {}
    nodes: dict[object, int] = {}
    for number, edit in enumerate(edits):
        for path in edit.paths:
            if modules.setdefault(path, number) != number:
                yield modules[path], number
        for claim in _claimed_nodes(edit):
            if nodes.setdefault(claim, number) != number:
                yield nodes[claim], number
    resizing = [(number, edit) for number, edit in enumerate(edits) if isinstance(edit.replacement, Resizing)]
    resized = {path: number for number, edit in resizing for path in edit.paths}
    around = {edit.path: number for number, edit in resizing if edit.path == edit.unit}
    for number, edit in enumerate(edits):
        yield from ((resized[path], number) for path in _called(edit) if path in resized)
    uncalled = {path: number for number, edit in enumerate(edits) for path in _uncalled(edit)}
    for number, edit in enumerate(edits):
        inside = [above for path in edit.paths for above in outers(path)[:-1]]
        scope = [] if edit.place is None else outers(edit.place.scope)
        for path in (*inside, *scope):
            if modules.get(path, number) != number:
                yield modules[path], number
            elif around.get(path, number) != number:
                yield around[path], number
            elif uncalled.get(path, number) != number and path not in _uncalled(edit):
                yield uncalled[path], number


def _uncalled(edit: Edit) -> set[str]:
    """The modules of which a rewiring takes a call out; one that is shared stays in its places, though it may be idle."""
    if edit.place is None or not isinstance(edit.replacement, Rewiring):
        return set()
    rewiring = edit.replacement
    again = {call.module for call in rewiring.calls} | rewiring.read | set(rewiring.keeps)
    anchors = (anchor for name, group in edit.place.nodes.items() if name not in again for anchor in group)
    return {below(edit.place.scope, anchor.target) for anchor in anchors if anchor.op == "call_module"}


def _called(edit: Edit) -> list[str]:
    """The modules whose calls a rewiring matched."""
    if edit.place is None:
        return []
    anchors = [anchor for group in edit.place.nodes.values() for anchor in group]
    return [below(edit.place.scope, anchor.target) for anchor in anchors if anchor.op == "call_module"]


def _claimed_nodes(edit: Edit) -> Iterator[object]:
    """The matched nodes of a rewiring, but for those that stay and whose results others go on to read."""
    if edit.place is not None and isinstance(edit.replacement, Rewiring):
        looked_at = set(edit.replacement.keeps) - {parse(value)[0] for value in edit.replacement.results}
        for name, anchors in edit.place.nodes.items():
            if name not in looked_at:
                yield from ((edit.place.scope, anchor) for anchor in anchors)


def _orders(edits: Sequence[Edit]) -> Iterator[tuple[int, int]]:
    """Edits that copy a module, and those that change something at or in it."""
    copying: dict[str, list[int]] = {}
    for number, edit in enumerate(edits):
        for path in edit.copied:
            copying.setdefault(path, []).append(number)
    for number, edit in enumerate(edits):
        for path in dict.fromkeys(p for each in edit.changed for p in outers(each)):
            yield from ((other, number) for other in copying.get(path, ()) if other != number)
