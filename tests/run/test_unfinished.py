"""Commands that need the student of a run say what to do if there is none yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from surgery.cli import main

COMMANDS = [["sample"], ["bench"], ["inspect"], ["analyze"], ["diff", "digits-dit"]]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({}, "holds a run that is not finished; go on with it by surgery apply RECIPE --out {folder} --resume"),
        ({"search": {"budget": {"flops": 0.9}}}, "holds a search, no run"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path, capsys, command, recipe, words) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"model": "digits-dit", "seed": 0, "data": None, **recipe}))
    assert main([*command, str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}: {words.format(folder=tmp_path)}" in line
