"""Layers of a row that are found by a search."""

from __future__ import annotations

from pathlib import Path

from surgery.recipe import Budget, Evaluate, Recipe, Search, load_recipe
from surgery.rewriting import Selection
from surgery.run.prepare import plan_recipe
from surgery.run.search import FOUND_RECIPE, search

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
