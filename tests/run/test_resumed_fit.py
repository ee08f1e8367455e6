"""A resumed run fits its new operators again only if something is made of them; it ends with the same bits either way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.evaluate.settings import Evaluate
from surgery.operators import HyenaX
from surgery.recipe import Distil, Finetune, Recipe
from surgery.rules import replace_attention
from surgery.run import stages
from tests.training import tiny

STEPS = {"steps": 2, "batch_size": 8, "checkpoint_every": 1}
NONE = {"steps": 0, "batch_size": 8}
FROZEN = {"rates": {"*.attn1.*": 0}}
"""New operators stay as they are fitted."""
CASES = {
    "finished": (STEPS, STEPS, [], False),
    "in stage 1": (STEPS, STEPS, ["checkpoints/distil-000002.json", "checkpoints/finetune-*"], False),
    "before stage 1": (STEPS, STEPS, ["checkpoints/*"], True),
    "rewritten not drawn": (STEPS, STEPS, ["samples/rewritten.png"], True),
    "finished, stage 1 left out": (NONE, STEPS, [], False),
    "finished, frozen in stage 2": (STEPS, {**STEPS, **FROZEN}, [], False),
    "finished, frozen and stage 1 left out": (NONE, {**STEPS, **FROZEN}, [], True),
    "finished, both left out": (NONE, NONE, [], True),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_overwritten_is_not_fitted(case: str, tiny_dit: Path, tmp_path: Path, monkeypatch: Any) -> None:
    distil, finetune, lost, again = CASES[case]
    recipe = Recipe(
        model=str(tiny_dit), rules=(replace_attention(HyenaX(kernel=3), inherit="fitted"),), distil=Distil(**distil),
        finetune=Finetune(**finetune), evaluate=Evaluate(samples=50, steps=1),
    )  # fmt: skip
    run = surgery.apply(recipe, tmp_path / "run")
    pictures = {path.name: path.read_bytes() for path in (run.folder / "samples").iterdir()}
    losses = json.loads((run.folder / "losses.json").read_text())
    for name in [*lost, *(["losses.json", "model"] if lost else [])]:
        for path in run.folder.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    fitted, fit = [], stages.fit
    monkeypatch.setattr(stages, "fit", lambda *args, **more: fitted.append(1) or fit(*args, **more))
    resumed = surgery.apply(recipe, run.folder, resume=True)
    assert bool(fitted) == again
    assert tiny.same_bits(tiny.weights(resumed.student), tiny.weights(run.student))
    assert {path.name: path.read_bytes() for path in (run.folder / "samples").iterdir()} == pictures
    assert json.loads((run.folder / "losses.json").read_text()) == losses
