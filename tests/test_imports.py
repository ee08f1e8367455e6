"""Imports point one way: along the folders, and without circles between files.

An import inside a function or under `TYPE_CHECKING` counts as well: what it ties together is read together.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]

ORDER = [
    "errors", "parallel", "progress", "files", "device", "wording", "config", "kinds", "losses", "raw",
    "recording", "analysis", "graph", "tracing", "operators", "rewriting", "rules",
    "store", "data", "pipelines", "training", "evaluate", "digits", "artifact", "models", "fashion", "statistics",
    "sensitivity", "search", "testing", "recipe_loader", "recipe", "recipe_writer", "run", "cli", "__main__", "__init__",
]  # fmt: skip
"""The folders and files of `surgery`, each of which may import those before it."""


def modules() -> dict[str, Path]:
    """Every file of `surgery`, and of `rules`, which is part of it, by its dotted name."""
    files = [*ROOT.glob("surgery/**/*.py"), *ROOT.glob("rules/*.py")]
    inside = {file.relative_to(ROOT) for file in files if file.relative_to(ROOT).parts[:2] != ("surgery", "rules")}
    return {name_of(path): ROOT / path for path in sorted(inside)}


def name_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts if parts[0] == "surgery" else ("surgery", *parts)).removesuffix(".__init__")


def imports_of(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """What `file` names in its imports: of `from a import b` the file `a.b`, if there is one, else `a`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative import"
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (target if target in known else node.module or "" for target in targets)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def import_graph() -> nx.DiGraph:
    known = modules()
    graph = nx.DiGraph()
    graph.add_nodes_from(known)
    for name, file in known.items():
        graph.add_edges_from((name, target) for target in imports_of(name, file, known) if target in known)
    return graph


def floor(name: str) -> int:
    parts = name.split(".")
    return ORDER.index(parts[1] if len(parts) > 1 else "__init__")


@pytest.fixture(scope="module")
def graph() -> nx.DiGraph:
    return import_graph()


def test_every_folder_has_its_place() -> None:
    entries = {path.stem for path in (ROOT / "surgery").iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert entries | {"rules"} <= set(ORDER)


def test_imports_point_one_way(graph: nx.DiGraph) -> None:
    assert not {(name, target) for name, target in graph.edges if floor(target) > floor(name)}


def test_there_are_no_circles(graph: nx.DiGraph) -> None:
    circles = {frozenset(files) for files in nx.strongly_connected_components(graph) if len(files) > 1}
    assert not circles


def test_a_circle_and_an_import_upwards_are_seen(graph: nx.DiGraph) -> None:
    changed = graph.copy()
    changed.add_edge("surgery.recording.paths", "surgery.graph.view")
    with pytest.raises(AssertionError):
        test_imports_point_one_way(changed)
    with pytest.raises(AssertionError):
        test_there_are_no_circles(changed)
