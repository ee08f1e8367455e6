"""No function of the package stands twice: the same statements under other names."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.test_imports import modules

SMALL = 26
"""Functions of fewer parts of a syntax tree, a line or two, may look alike."""


class _Renamed(ast.NodeTransformer):
    """Calls variables and arguments by the order in which they come."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._names.setdefault(node.id, str(len(self._names))), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self._names.setdefault(node.arg, str(len(self._names))))


def shapes(file: Path) -> Iterator[tuple[str, str]]:
    """The name of each function that is not small, and its statements with other names, docstrings left out."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            if sum(1 for statement in body for _ in ast.walk(statement)) >= SMALL:
                renamed = _Renamed()
                yield node.name, "".join(ast.dump(renamed.visit(each)) for each in (node.args, *body))


def alike(files: Iterable[Path]) -> list[list[str]]:
    """The names of the functions that are the same."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for name, shape in shapes(file):
            found[shape].append(f"{file.stem}.{name}")
    return [names for names in found.values() if len(names) > 1]


def test_no_function_stands_twice() -> None:
    assert alike(modules().values()) == []


def test_one_that_does_is_seen(tmp_path: Path) -> None:
    body = "(x, y):\n    {}\n    total = x + y * 2\n    return [total - each for each in (x, y) if each > total]\n"
    file = tmp_path / "file.py"
    file.write_text(
        f"def a{body.format('...')}\n\ndef b{body.format('...').replace('total', 'sum_')}\n\ndef c(): ...\n"
    )
    assert alike([file]) == [["file.a", "file.b"]]
