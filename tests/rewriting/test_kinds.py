"""What a kind of edit does stands in its own file: nobody else asks which kind an edit is of."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgery.rewriting import kinds
from surgery.rewriting.edit import Edit

ROOT = Path(__file__).parents[2]
KINDS = {kind: cls.__name__ for kind, cls in Edit.known.items() if cls.__module__.startswith(f"{kinds.__name__}.")}


def asks(source: str) -> Iterator[int]:
    """The lines of `source` that name a class of edits, or compare a `kind` with one of theirs."""
    for node in ast.walk(ast.parse(source)):
        named = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
        parts = [part for part in ast.walk(node) if isinstance(node, ast.Compare)]
        has_kind = any(isinstance(part, ast.Attribute) and part.attr == "kind" for part in parts)
        if named in KINDS.values() or (has_kind and any(getattr(part, "value", None) in [*KINDS] for part in parts)):
            yield node.lineno


def test_nobody_outside_asks_for_the_kind_of_an_edit() -> None:
    files = (file for folder in ("surgery", "rules") for file in (ROOT / folder).rglob("*.py"))
    outside = {file: list(asks(file.read_text())) for file in files if file.parent != Path(kinds.__file__).parent}
    assert {file.relative_to(ROOT): lines for file, lines in outside.items() if lines} == {}


@pytest.mark.parametrize(
    "source", ["isinstance(edit, Swap)", "match edit:\n    case kinds.Resize(): pass", "edit.kind == 'share'"]
)
def test_who_asks_is_seen(source: str) -> None:
    assert set(KINDS) == {"resize", "rewire", "share", "swap"}
    assert list(asks(source))
