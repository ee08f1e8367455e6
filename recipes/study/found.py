"""Layers of a row that are found by measuring."""

from __future__ import annotations

from pathlib import Path

from surgery.progress import SilentProgress
from surgery.recipe import Budget, Evaluate, Recipe, Search, load_recipe
from surgery.rewriting import Selection, indices
from surgery.run.prepare import open_recipe, plan_recipe
from surgery.run.search import FOUND_RECIPE, search
from surgery.search.candidates import find_candidates
from surgery.sensitivity import sensitivity

SHORTLIST, STEPS = 3, 60
"""Of the search: sets of layers that are finetuned and judged, and updates for each candidate and each of these sets."""
JUDGED = Evaluate(samples=1000, steps=10, batch_size=50)


def searched(recipe: Recipe, like: Selection, folder: Path, device: str) -> Recipe:
    """The recipe in the layers that harm least of all that cost no more FLOPs than `like`; the search is in `folder`."""
    (rule,) = recipe.rules
    allowed = plan_recipe(recipe.model_copy(update={"rules": (rule.model_copy(update={"layers": like}),)})).after.flops
    asked = Search(budget=Budget(flops=float(allowed)), shortlist=SHORTLIST, steps=STEPS)
    search(recipe.model_copy(update={"search": asked, "evaluate": JUDGED}), folder, resume=True, device=device)
    return recipe.model_copy(update={"rules": load_recipe(folder / FOUND_RECIPE).rules})


def least_harmed(recipe: Recipe, count: int, device: str) -> Recipe:
    """The recipe in so many layers: those in which the edit alone, before stage 2, changes the model's output least."""
    (rule,) = recipe.rules
    opened = open_recipe(recipe, device)
    found = find_candidates(opened.graph, recipe.rules)
    effects = sensitivity(
        opened.graph,
        [each.edits for each in found],
        opened.data,
        recipe.distil,
        seed=recipe.seed,
        progress=SilentProgress(),
    )
    harms = {each.layer: effect.output for each, effect in zip(found, effects, strict=True) if each.layer is not None}
    chosen = sorted(sorted(harms, key=harms.__getitem__)[:count])
    return recipe.model_copy(update={"rules": (rule.model_copy(update={"layers": indices(*chosen)}),)})
