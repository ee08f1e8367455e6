"""What docs/extending.md shows: an operator and a rule outside of the package, used in a recipe, saved and loaded."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.errors import ArtifactError
from surgery.operators import Dims, OperatorConfig

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
FILES = ("token_average", "layer_scale", "recipe")


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    named = {match[1]: block for block in blocks if (match := re.match(r"# (\w+)\.py\n", block))}
    assert set(FILES) <= set(named)
    for name, block in named.items():
        (tmp_path / f"{name}.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    page: dict[str, Any] = {"__name__": "page"}
    try:
        exec("\n".join(block for block in blocks if block not in named.values()), page)
    finally:
        for name in named:
            sys.modules.pop(name, None)
    assert page["again"].transformer_blocks[0].attn1_scale.scale.shape == (96,)

    # Where the classes are not known, as in another process, the error is the one that the page shows.
    for family, kind in ((OperatorConfig, "token_average"), (OperatorConfig, "layer_scale"), (Dims, "width")):
        monkeypatch.delitem(family.known, kind)
    with pytest.raises(ArtifactError) as raised:
        surgery.load("student")
    shown = re.search(r"    surgery: (student.*?)\n\n", PAGE.read_text(), flags=re.DOTALL)
    assert shown is not None
    assert str(raised.value) == " ".join(shown[1].split())
