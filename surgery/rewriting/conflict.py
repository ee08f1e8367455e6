"""Conflicts between edits, found before any of them is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from surgery.config import Config
from surgery.errors import RewriteError
from surgery.recording.paths import outers
from surgery.rewriting.edit import Claims, Edit
from surgery.rewriting.words import name_is_taken


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
    claims = [edit.claims for edit in edits]
    for a, b in _overlaps(claims):
        pair = (min(a, b), max(a, b))
        first, second = edits[a], edits[b]
        found.setdefault(pair, _conflict(first, second, "overlap"))
    for a, b in _orders(claims):
        if (min(a, b), max(a, b)) not in found:
            found[min(a, b), max(a, b)] = _conflict(edits[a], edits[b], "order")
    return list(found.values())


def _conflict(first: Edit, second: Edit, kind: Literal["overlap", "order"]) -> Conflict:
    return Conflict(paths=(first.path, second.path), rules=(first.rule, second.rule), kind=kind)


def _overlaps(claims: Sequence[Claims]) -> Iterator[tuple[int, int]]:
    """Edits that claim the same module or node, and those of something inside a module that another one replaces.

    Inside a module that another one resizes, too, or right after one: sizes are proven as they were before.
    """
    modules, nodes = dict[object, int](), dict[object, int]()
    for number, each in enumerate(claims):
        for owners, claimed in ((modules, each.modules), (nodes, each.nodes)):
            for one in claimed:
                if owners.setdefault(one, number) != number:
                    yield owners[one], number
    resized = {path: number for number, each in enumerate(claims) for path in each.resized}
    for number, each in enumerate(claims):
        yield from ((resized[path], number) for path in each.calls if path in resized)
    yield from _insides(claims, modules)


def _insides(claims: Sequence[Claims], modules: Mapping[object, int]) -> Iterator[tuple[int, int]]:
    """Edits inside something that another one needs whole; `modules` says which one claims each module."""
    whole = {path: number for number, each in enumerate(claims) for path in each.whole}
    ended = {path: number for number, each in enumerate(claims) for path in each.ended}
    for number, each in enumerate(claims):
        inside = [above for path in each.modules for above in outers(path)[:-1]]
        scopes = [above for path in each.scopes for above in outers(path)]
        for path in (*inside, *scopes):
            if modules.get(path, number) != number:
                yield modules[path], number
            elif whole.get(path, number) != number:
                yield whole[path], number
            elif ended.get(path, number) != number and path not in each.ended:
                yield ended[path], number


def _orders(claims: Sequence[Claims]) -> Iterator[tuple[int, int]]:
    """Edits that copy a module, and those that change something at or in it."""
    copying: dict[str, list[int]] = {}
    for number, each in enumerate(claims):
        for path in each.copied:
            copying.setdefault(path, []).append(number)
    for number, each in enumerate(claims):
        for path in dict.fromkeys(p for changed in each.changed for p in outers(changed)):
            yield from ((other, number) for other in copying.get(path, ()) if other != number)


def require_distinct_names(edits: Sequence[Edit]) -> None:
    """Raise RewriteError if two edits, which do not conflict otherwise, call their new modules the same."""
    known: set[str] = set()
    for edit in edits:
        for name, path in edit.added.items():
            if path in known:
                raise RewriteError(name_is_taken(f"{edit.rule} at {edit.path}", path, name))
            known.add(path)
