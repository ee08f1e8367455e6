"""The commands that try many students of one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from surgery.cli.commands import Json, Set, app
from surgery.cli.output import console, print_json, prints_to_stderr

Resume = Annotated[bool, Parameter(negative="")]
Budgets = Annotated[tuple[str, ...], Parameter(name="--budget", negative="", consume_multiple=False)]


@app.command
def search(
    recipe: Path,
    *,
    budget: Budgets = (),
    out: Path | None = None,
    resume: Resume = False,
    set_: Set = (),
    device: str = "cpu",
    as_json: Json = False,
) -> None:
    """Choose which rules to apply in which layers under a budget, and write a recipe that does.

    Args:
        recipe: Python file that defines `recipe`; its rules are the candidates, in the layers that they select.
        budget: What the student may cost, e.g. --budget flops=0.8; may be repeated. Also latency, params and memory; a
            share of the teacher's, or an amount such as "12 ms". By default that of the recipe.
        out: Folder of the search; by default runs/ and the name of the recipe with -search.
        resume: Continue an interrupted search in the same folder.
        set_: Override a value of the recipe, e.g. --set search.steps=50; may be repeated.
        device: Where to train and to measure, e.g. cuda.
        as_json: Print the result as JSON.
    """
    from surgery.progress import RichProgress
    from surgery.recipe import load_recipe, override, with_budget
    from surgery.run.search import FOUND_RECIPE, PLOT
    from surgery.run.search import search as run_search
    from surgery.run.terminal import search_table

    folder = out or Path("runs") / f"{recipe.stem}-search"
    with prints_to_stderr():
        asked = override(with_budget(load_recipe(recipe), budget), set_)
        found = run_search(asked, folder, resume=resume, device=device, progress=RichProgress(), source=recipe)
    if as_json:
        return print_json({**found.model_dump(mode="json"), "folder": str(folder)})
    console().print(search_table(found))
    print(f"\nrecipe  {folder / FOUND_RECIPE}\nplot    {folder / PLOT}")
    return None


@app.command
def sweep(
    recipe: Path,
    *,
    out: Path | None = None,
    set_: Set = (),
    seeds: int = 1,
    resume: Resume = False,
    device: str = "cpu",
    as_json: Json = False,
) -> None:
    """Run a recipe with every combination of values, and compare the runs: mean and spread over seeds.

    Args:
        recipe: Python file that defines `recipe`.
        out: Folder of the sweep, with one for each run; by default runs/ and the name of the recipe with -sweep.
        set_: Values of a part of the recipe, e.g. --set finetune.lr=1e-3,1e-4; may be repeated.
        seeds: How many seeds each combination is run with, counted from that of the recipe.
        resume: Go on with a sweep in the same folder; it may have more values.
        device: Where to train, e.g. cuda.
        as_json: Print the content of sweep.json.
    """
    from surgery.progress import RichProgress
    from surgery.run.sweep import PAGE, RESULT, planned
    from surgery.run.sweep import sweep as run_sweep
    from surgery.run.terminal import comparison_table

    folder = out or Path("runs") / f"{recipe.stem}-sweep"
    with prints_to_stderr():
        runs = planned(recipe, set_, seeds)
        swept = run_sweep(recipe, runs, folder, resume=resume, device=device, progress=RichProgress())
    if as_json:
        print((folder / RESULT).read_text(), end="")
    elif swept.comparison is not None:
        console().print(comparison_table(swept.comparison))
        print("\n".join(filter(None, (swept.comparison.caution, str(folder / PAGE)))))
    swept.require_all()
