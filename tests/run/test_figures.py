"""Layers selected by figures of an analysis: planned, kept, read back."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter

import surgery
from surgery.errors import ConfigError, MatchError, RecipeError
from surgery.models import load_pretrained
from surgery.models.inputs import example_inputs
from surgery.operators import HyenaX
from surgery.recipe import Recipe
from surgery.rewriting import every, indices, top, where
from surgery.rewriting.selection import Selection
from surgery.rules import replace_attention
from surgery.run import figures
from surgery.run.prepare import plan_recipe
from surgery.run.subject_to_analyze import Sampling

BY_FIGURE = [
    top("locality", 3),
    top("entropy", 2, least=True),
    where("contribution", above=0.1, below=0.5),
    where("locality", above=0.3) & ~every(2),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def recipe(layers, model: str = "digits-dit") -> Recipe:
    return Recipe(model=model, rules=[replace_attention(HyenaX(kernel=4), layers=layers)])


@pytest.mark.parametrize("selection", BY_FIGURE, ids=str)
def test_a_selection_by_figures_is_data(selection):
    kinds = TypeAdapter(Selection)
    assert kinds.validate_json(kinds.dump_json(selection)) == selection
    assert selection.figures() <= {"locality", "entropy", "contribution"}


def graph_with(values: list[float]):
    model = load_pretrained("digits-dit").model
    graph = surgery.trace(model, example_inputs(model))
    graph.figures = {f"transformer_blocks.{n}": {"locality": value} for n, value in enumerate(values)}
    return graph


VALUES = [0.1, 0.8, 0.3, 0.9, 0.2, 0.7, 0.4, 0.5]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (top("locality", 3), [1, 3, 5]),
        (top("locality", 2, least=True), [0, 4]),
        (where("locality", above=0.45), [1, 3, 5, 7]),
        (where("locality", above=0.2, below=0.5), [2, 6]),
        (where("locality", above=0.45) & ~indices(3), [1, 5, 7]),
    ],
    ids=str,
)
def test_sites_are_chosen_by_the_figures_of_the_graph(layers, expected):
    plan = surgery.plan(graph_with(VALUES), [replace_attention(HyenaX(kernel=4), layers=layers)])
    assert [edit.layer for edit in plan.edits] == expected


def test_the_figure_of_the_operator_comes_before_that_of_its_layer():
    graph = graph_with(VALUES)
    graph.figures = {**graph.figures, "transformer_blocks.0.attn1": {"locality": 1.0}}
    plan = surgery.plan(graph, [replace_attention(HyenaX(kernel=4), layers=top("locality", 1))])
    assert [edit.layer for edit in plan.edits] == [0]


def test_mistakes_are_named():
    rule = replace_attention(HyenaX(kernel=4), layers=top("localty", 2))
    with pytest.raises(MatchError, match="has no figure 'localty', did you mean 'locality'"):
        surgery.plan(graph_with(VALUES), [rule])
    graph = graph_with(VALUES)
    graph.figures = {}
    with pytest.raises(MatchError, match="is a figure of an analysis, and this graph has none"):
        surgery.plan(graph, [rule])
    with pytest.raises(ConfigError, match="say how large 'locality' is to be"):
        where("locality")
    with pytest.raises(ConfigError, match="not for a function"):
        where(len, above=1.0)
    with pytest.raises(RecipeError, match=r"top\('locality', 2\) needs an analysis"):
        plan_recipe(recipe(top("locality", 2), "facebook/DiT-XL-2-256"))


def test_a_recipe_is_planned_by_an_analysis_that_is_kept(cache, tiny_dit, monkeypatch):
    monkeypatch.setattr(figures, "Sampling", lambda steps, samples, seed: Sampling(1, samples, seed))
    asked = recipe(top("locality", 2), str(tiny_dit))
    first = plan_recipe(asked)
    (kept,) = cache.rglob("*.json")
    localities = [layer["locality"] for layer in json.loads(kept.read_text())["layers"]]
    ranked = sorted(range(4), key=lambda n: localities[n], reverse=True)
    assert [edit.layer for edit in first.edits] == sorted(ranked[:2])
    monkeypatch.setattr(figures, "analyze", None)
    assert plan_recipe(Recipe.model_validate(asked.model_dump(mode="json"))) == first
