"""The command that searches."""

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
