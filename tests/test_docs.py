"""Each piece of Python on a page of the documentation runs alone, as it stands.

A block whose first line names a file is that file, which the other blocks of the page can import; a block that defines
`recipe` is planned as a recipe. Nothing is skipped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgery.cli import main
from surgery.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
FILE = re.compile(r"# (\w+\.py)\n")
BLOCKS = [
    pytest.param(page, number, id=f"{page.name}-{number}")
    for page in PAGES
    for number, _ in enumerate(re.findall("^```python$", page.read_text(), flags=re.MULTILINE))
]


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder whose files can be imported, and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize(("page", "number"), BLOCKS)
def test_a_block_runs_alone(page, number, folder):
    blocks = blocks_of(page)
    for block in blocks:
        if named := FILE.match(block):
            (folder / named[1]).write_text(block)
    if re.search(r"^recipe = ", blocks[number], flags=re.MULTILINE):
        (folder / "this_recipe.py").write_text(blocks[number])
        is_searched = "search=Search(" in blocks[number]  # whose rules are not meant together
        assert main(["plan", "this_recipe.py"]) == (2 if is_searched else 0)
    else:
        code = compile(blocks[number], f"{page.name}, block {number}", "exec", dont_inherit=True)
        exec(code, {"__name__": "page"})


def test_the_readme_shows_the_quickstart(folder):
    (folder / "shown.py").write_text(blocks_of(ROOT / "README.md")[0])
    assert load_recipe("shown.py") == load_recipe(ROOT / "recipes" / "quickstart.py")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
