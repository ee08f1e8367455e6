"""docs/metrics.md: the metric on the page, in one file outside of the package, is measured, written and shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from surgery.cli import main
from surgery.recipe import load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "ink.py").write_text(block)
    return tmp_path / "ink.py"


def test_a_metric_of_your_own_takes_one_file(recipe, tmp_path, capsys):
    assert main(["apply", str(recipe), "--out", str(tmp_path / "run")]) == 0
    assert {"ink", "x teacher", "held-out loss"} <= set(re.split(r"\s{2,}", capsys.readouterr().out.splitlines()[1]))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["columns"]["ink_share"] == {"title": "ink", "unit": "share", "better": "higher", "note": ""}
    inks = [stage["ink_share"] for stage in metrics["stages"]]
    assert len(inks) == 4
    assert all(0 < ink < 1 for ink in inks)
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(f"{100 * ink:.1f}\u00a0%" in report for ink in inks)
    assert '<span title="higher is better">Ink</span>' in report
    assert "The finetuned student has an ink of" in report
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())["evaluate"]["metrics"]
    assert written[0] == {"kind": "ink_share", "threshold": 0.2, "import": "__recipe__"}


def test_it_may_be_written_again_elsewhere(recipe):
    assert load_recipe(recipe).evaluate != load_recipe(recipe, ["evaluate.metrics.0.threshold=0.5"]).evaluate
    other = recipe.with_name("other.py")
    other.write_text(recipe.read_text().replace("InkShare", "Ink"))
    assert [metric.name for metric in load_recipe(other).evaluate.metrics] == ["ink_share", "held_out_loss"]
