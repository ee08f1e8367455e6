"""A search: candidates, what each costs and harms, the sets that are best, and the recipe that comes out."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from surgery.errors import RecipeError
from surgery.evaluate.metrics import HeldOutLoss, TeacherDistance
from surgery.evaluate.report.words import figure, heading
from surgery.progress import Progress, SilentProgress
from surgery.recipe import Recipe
from surgery.run.checks import check_opened, identity_of, require_outputs
from surgery.run.folder import RunFolder
from surgery.run.found_recipe import recipe_text, require_writable
from surgery.run.lock import locked
from surgery.run.prepare import Opened, open_recipe
from surgery.run.searcher import Searcher
from surgery.search.candidates import chosen_rules, find_candidates
from surgery.search.plot import pareto_svg
from surgery.search.result import SearchResult

RESULT, FOUND_RECIPE, PLOT = "search.json", "recipe.py", "pareto.svg"


def search(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    source: Path | None = None,
) -> SearchResult:
    """Choose edits among the rules of `recipe`, and leave a recipe that makes them in the folder `out`.

    Args:
        recipe: with `search`; its rules are candidates in each of the layers that they select.
        out: a folder that does not exist or is empty; with `resume`, that of an interrupted search of the same recipe.
        resume: continue where an interrupted search stopped.
        device: where to train, and to measure latency.
        progress: shows how far it has come; silent by default.
        source: the file of the recipe, which defines its own classes.

    Raises:
        RecipeError: no set of the candidates keeps the budget, or the teacher does already.
        SurgeryError: of the kind that fits. What was measured up to then is kept, and gone on with.
    """
    if recipe.search is None:
        raise RecipeError(
            "search: the recipe names no budget; add search=Search(budget=Budget(flops=0.8)), or --budget"
        )
    require_writable(recipe, source)
    progress = progress or SilentProgress()
    plain = recipe.model_dump(mode="json")
    require_outputs(recipe, out, resume=resume)
    opened = open_recipe(recipe, device, RunFolder(out).data, progress)
    check_opened(opened)
    candidates = find_candidates(opened.graph, recipe.rules)
    planned = "\n".join(edit.model_dump_json() for each in candidates for edit in each.edits)
    Searcher(opened, recipe.search, candidates, RunFolder(out), progress).check()
    with locked(out):
        identity = identity_of(opened, planned)
        folder = RunFolder.open(out, plain, resume=resume, identity=identity)
        opened = _judged(replace(opened, data=opened.data.stored(folder.data, progress)))
        found = Searcher(opened, recipe.search, candidates, folder, progress).run(str(source or "recipe"))
        chosen = [each for each in candidates if each.key in found.best.candidates]
        without = recipe.model_copy(update={"search": None, "rules": tuple(chosen_rules(opened.graph, chosen))})
        folder.write(FOUND_RECIPE, recipe_text(without, source, _notes(found, folder.path)).encode())
        folder.write(PLOT, pareto_svg(found).encode())
        folder.write_json(RESULT, found.model_dump(mode="json"))
    return found


def _judged(opened: Opened) -> Opened:
    """With metrics that choose: those of the recipe, the held-out loss only of data of which some are held out.

    If nothing is left, it is that loss, or else the distance to the teacher.
    """
    model, seed = opened.teacher.model, opened.recipe.seed
    holds_out = bool(opened.data.source(model, stage="search", batch_size=1, seed=seed).held_out())
    metrics = [each for each in opened.metrics if holds_out or not isinstance(each, HeldOutLoss)]
    if metrics:
        return replace(opened, metrics=tuple(metrics))
    metric = HeldOutLoss() if holds_out else TeacherDistance()
    return replace(opened, metrics=(metric,), samples=opened.samples or metric.usual_samples)


def _notes(found: SearchResult, folder: Path) -> list[str]:
    """What the written recipe says of itself."""
    best, column = found.best, found.columns[found.metric]
    shares = [f"{name} {best.cost[name] / limited.teacher:.3f}" for name, limited in found.budget.items()]
    value, teachers = (figure(each.get(found.metric), column.unit) for each in (best.metrics, found.teacher))
    return [
        f"Chosen by `surgery search` among the rules of {Path(found.recipe).name}.",
        "",
        f"Predicted cost, as a share of the teacher's: {', '.join(shares)}.",
        f"{heading(column.title)} after a short finetuning: {value} (teacher {teachers}).",
        "",
        f"surgery apply {shlex.quote(str(folder / FOUND_RECIPE))}",
    ]
