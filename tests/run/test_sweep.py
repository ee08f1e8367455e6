"""`surgery sweep`: every combination of values with every seed, resumed, and compared in the end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.cli import main
from surgery.errors import RecipeError
from surgery.run.sweep import folder_of, planned, values_of

RECIPE = """\
from surgery.evaluate.metrics import HeldOutLoss
from surgery.operators import HyenaX
from surgery.recipe import Distil, Evaluate, Finetune, Recipe
from surgery.rewriting import indices
from surgery.rules import replace_attention

recipe = Recipe(
    model={model!r},
    rules=[replace_attention(HyenaX(kernel=4), layers=indices(1))],
    distil=Distil(steps=1, batch_size=4),
    finetune=Finetune(steps=1, batch_size=4),
    evaluate=Evaluate(metrics=[HeldOutLoss(draws=1)], samples=2, steps=1),
    seed=3,
)
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory, tiny_dit) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "small.py"
    path.write_text(RECIPE.format(model=str(tiny_dit)))
    return path


texts = st.text('abc01.,=[]"/ é', max_size=12)


@given(
    st.lists(
        st.one_of(st.integers(), st.booleans(), st.lists(st.integers(), max_size=3), st.text("a,[]{}", max_size=4))
    )
)
def test_values_that_json_has_are_told_apart_whatever_is_in_them(values):
    written = [json.dumps(value) for value in values] or ["1"]
    assert values_of(f"a.b={','.join(written)}") == [f"a.b={value}" for value in written]


@given(st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_folders_differ_where_values_do(one, other):
    names = [folder_of(each) for each in (one, other)]
    assert (names[0] == names[1]) == (",".join(one) == ",".join(other))
    assert all(re.fullmatch(r"[\w.,=+-]*", name) for name in names)


def test_every_combination_has_every_seed(recipe_file):
    runs = planned(recipe_file, ["distil.steps=1,2", "distil.lr=1e-3,1e-4"], 3)
    assert len(runs) == len({run.folder for run in runs}) == 12
    assert runs[0].overrides == ("distil.steps=1", "distil.lr=1e-3", "seed=3")
    assert [run.recipe.seed for run in runs[:3]] == [3, 4, 5]
    assert {(run.recipe.distil.steps, run.recipe.distil.lr) for run in runs} == {
        (steps, lr) for steps in (1, 2) for lr in (1e-3, 1e-4)
    }


@pytest.mark.parametrize(
    ("settings", "seeds", "words"),
    [
        (["distil.step=1,2"], 1, "unknown key 'step', did you mean 'steps'"),
        (["distil.steps=1,-2"], 1, "--set distil.steps=-2"),
        (["distil.steps"], 1, "write it as name=value,value"),
        (["seed=1,2"], 3, "leave one of them out"),
        ([], 0, "--seeds 0: name at least 1"),
        (["distil.lr=1e-3,0.001"], 1, "distil.lr=1e-3, seed=3 and distil.lr=0.001, seed=3 are the same run"),
        (["distil.lr=1e-3,1e-4", "distil.lr=0.1"], 1, "are the same run; leave one of them out"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(recipe_file, settings, seeds, words):
    with pytest.raises(RecipeError, match=re.escape(words)):
        planned(recipe_file, settings, seeds)


def test_a_sweep_goes_on_with_more_values_and_one_that_fails_does_not_stop_it(recipe_file, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["sweep", str(recipe_file), "--out", str(out)]
    assert main([*asked, "--set", "finetune.steps=1"]) == 0
    first = (out / "finetune.steps=1,seed=3" / "metrics.json").read_bytes()
    assert main([*asked, "--set", "finetune.steps=1"]) == 2
    assert "holds another sweep; continue it with --resume" in capsys.readouterr().err
    assert main([*asked, "--set", "finetune.steps=1", "--seeds", "2", "--resume", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [run["folder"] for run in result["runs"]] == ["finetune.steps=1,seed=3", "finetune.steps=1,seed=4"]
    assert (out / "finetune.steps=1,seed=3" / "metrics.json").read_bytes() == first
    groups = result["groups"]
    assert [[run["seed"] for run in group["runs"]] for group in groups] == [[3, 4]]
    last = groups[0]["stages"][-1]
    assert last["stage"] == "finetuned"
    assert last["held_out_loss"]["runs"] == 2
    assert last["held_out_loss"]["deviation"] > 0
    assert "</html>" in (out / "comparison.html").read_text()
    assert main([*asked, "--set", "rules.0.layers.layers=[9],[1]", "--resume"]) == 3
    assert "no such layer: 9" in capsys.readouterr().err
    ended = json.loads((out / "sweep.json").read_text())
    assert [run["error"] is None for run in ended["runs"]] == [False, True]
    assert len(ended["groups"]) == 1
