"""Files and functions stay small, so that each says one thing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.test_imports import modules

LINES_OF_A_FILE = 300
LINES_OF_A_FUNCTION = 40

LONGER = {"surgery.cli.commands.apply"}
"""Functions that may be longer: every option of a command is an argument of it, and `apply` has the most."""


def functions(file: Path) -> Iterator[tuple[str, int]]:
    """The name of each function, and how many lines it has besides its docstring."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = node.body[0] if ast.get_docstring(node) is not None else None
            yield node.name, _lines(node) - (_lines(text) if text is not None else 0)


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_are_short() -> None:
    lines = {name: len(file.read_text().splitlines()) for name, file in modules().items()}
    assert {name: count for name, count in lines.items() if count > LINES_OF_A_FILE} == {}


def test_functions_are_short() -> None:
    counts = [(f"{name}.{f}", lines) for name, file in modules().items() for f, lines in functions(file)]
    assert {name for name, count in counts if count > LINES_OF_A_FUNCTION} == LONGER


def test_what_is_too_long_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    file.write_text(
        'def long():\n    """Says\n    this."""\n' + "    a = 1\n" * 41 + "\n\ndef short():\n    return 1\n"
    )
    assert dict(functions(file)) == {"long": 42, "short": 2}
