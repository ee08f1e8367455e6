"""`surgery analyze`: what it runs a model on, and what it prints and writes."""

from __future__ import annotations

import json

import pytest

from surgery.cli import main
from surgery.errors import RecipeError
from surgery.run.subject_to_analyze import Sampling, analyzed


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["analyze", *arguments]) == 0
    return capsys.readouterr().out


def test_json_has_the_figures_of_each_layer_in_order(capsys):
    found = json.loads(run(capsys, "digits-dit", "--steps", "2", "--json"))
    assert [layer["layer"] for layer in found["layers"]] == list(range(8))
    assert all(isinstance(layer[name], float) for layer in found["layers"] for name in ("locality", "entropy"))
    assert [layer["path"] for layer in found["layers"]] == [f"transformer_blocks.{n}" for n in range(8)]
    assert found["driven_by"].startswith("DigitsPipeline")
    assert found["forwards"] == 2


def test_a_bare_transformer_runs_on_made_up_inputs(capsys, tiny_dit, tmp_path):
    table = run(capsys, str(tiny_dit), "--steps", "2", "--out", str(tmp_path))
    assert "made-up inputs, 2 times" in table
    written = json.loads((tmp_path / "analysis.json").read_text())
    assert written["forwards"] == 2
    page = (tmp_path / "analysis.html").read_text()
    assert page.count("<svg") == page.count("</svg>") > 4


def test_keywords_are_for_pipelines_only(tiny_dit, tmp_path):
    with pytest.raises(RecipeError, match="is no pipeline, so nothing takes keywords"):
        analyzed(str(tiny_dit), Sampling(), tmp_path / "call.json")


def test_the_same_seed_gives_the_same_figures(capsys):
    first, second = (run(capsys, "digits-dit", "--steps", "1", "--json") for _ in range(2))
    assert first == second
