"""The code on the documentation's pages runs as it stands."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["docs/library.md", "docs/rules.md", "docs/runs.md", "README.md"])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    if find_spec("surgery.testing") is None:
        blocks = [block for block in blocks if "surgery.testing" not in block]
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), page, "exec", dont_inherit=True), {"__name__": "page"})


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target
