"""A recipe that is written as Python gives an equal recipe again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.data import Generated
from surgery.digits.metrics import DigitsFrechet
from surgery.evaluate.metrics import Latency, TeacherDistance
from surgery.operators import MLP, Blend, HyenaX, LinearAttention, NeighbourhoodAttention, SlidingWindow
from surgery.recipe import Distil, Evaluate, Finetune, LogitNormal, LoRA, Recipe, Target, load_recipe
from surgery.recipe_writer import expression, written
from surgery.rewriting import all_layers, every, indices, node, three_of_four, where
from surgery.rules import (
    alternate,
    drop_blocks,
    fuse_projections,
    mlp_ratio,
    parallel_pairs,
    replace_attention,
    replace_mlp,
    share_blocks,
)

ROOT = Path(__file__).parents[1]


def wide(site) -> bool:
    return site.operator.params > 10


SELECTIONS = st.recursive(
    st.sampled_from(
        [
            all_layers(),
            every(2),
            every(3, first=1),
            every(2, of=~indices(1)),
            three_of_four(),
            indices(0, 3),
            where(wide),
        ]
    ),
    lambda inner: st.builds(lambda a, b: a & b, inner, inner) | st.builds(lambda a: ~a, inner),
    max_leaves=3,
)
MIXERS = st.sampled_from(
    [
        HyenaX(kernel=65),
        SlidingWindow(),
        LinearAttention(features="learned"),
        NeighbourhoodAttention(window=5, grid=(8, 8)),
        Blend(parts=(SlidingWindow(window=3), LinearAttention())),
    ]
)
RULES = st.one_of(
    st.builds(
        replace_attention, MIXERS, layers=SELECTIONS | st.none(), inherit=st.sampled_from(["random", "projections"])
    ),
    st.builds(replace_attention, MIXERS, role=st.sampled_from(["cross_attention", "self_attention"])),
    st.builds(mlp_ratio, st.sampled_from([3, 0.5]), layers=SELECTIONS),
    st.builds(drop_blocks, layers=SELECTIONS),
    st.builds(parallel_pairs),
    st.builds(fuse_projections, layers=SELECTIONS),
    st.builds(share_blocks, st.integers(2, 3), average=st.booleans()),
    st.just(replace_mlp(MLP(ratio=2.0))),
    st.just(replace_attention(HyenaX()).model_copy(update={"pattern": node(module_class='A"b'), "loss": "l2"})),
)
RECIPES = st.builds(
    Recipe,
    model=st.sampled_from(["digits-dit", "a 'quoted' \"name\"", "c:\\new"]),
    rules=st.lists(RULES, min_size=1, max_size=3),
    data=st.sampled_from(
        ["digits", Generated(prompts=("a", 'b"'), samples=3, steps=2, call={"height": 64, "x": None})]
    ),
    distil=st.sampled_from([Distil(), Distil(steps=3, lr=1e-9, times=LogitNormal(mean=1.0))]),
    finetune=st.sampled_from([Finetune(target=Target(data=0.5)), Finetune(rates={"*.norm*": 0.0}, lora=LoRA(rank=2))]),
    evaluate=st.sampled_from([None, Evaluate(), Evaluate(metrics=(DigitsFrechet(), TeacherDistance(), Latency()))]),
    seed=st.integers(0, 3),
)


@settings(max_examples=40, deadline=None)
@given(RECIPES)
def test_what_is_written_is_read_back(tmp_path_factory, recipe):
    file = tmp_path_factory.mktemp("written") / "recipe.py"
    file.write_text(written(recipe))
    assert load_recipe(file) == recipe
    assert max(map(len, written(recipe).splitlines())) < 220


@pytest.mark.parametrize("name", sorted(p.name for p in ROOT.glob("recipes/*.py") if "\nrecipe = " in p.read_text()))
def test_the_recipes_of_the_project_are_written_shorter_than_they_are(tmp_path, name):
    recipe = load_recipe(ROOT / "recipes" / name)
    (tmp_path / name).write_text(written(recipe))
    assert load_recipe(tmp_path / name) == recipe


def test_rules_are_written_by_their_functions():
    first, second = alternate(HyenaX(), SlidingWindow(window=5))
    assert expression(first) == "replace_attention(HyenaX(), layers=every(2, first=0, of=all_layers()))"
    assert expression(second) == "replace_attention(SlidingWindow(window=5), layers=every(2, first=1, of=all_layers()))"
    assert expression(drop_blocks(layers=~indices(1))) == "drop_blocks(layers=~indices(1))"


def test_what_no_module_can_be_asked_for_is_named(tmp_path):
    (tmp_path / "own.py").write_text(
        "from surgery.recipe import Recipe\nfrom surgery.operators import HyenaX\nfrom surgery.rewriting import where\n"
        "from surgery.rules import replace_attention\ndef mine(site): return True\n"
        "recipe = Recipe(model='digits-dit', rules=[replace_attention(HyenaX(), layers=where(mine))])\n"
    )
    assert "\n# mine: of the file that this recipe was written in\n" in written(load_recipe(tmp_path / "own.py"))
