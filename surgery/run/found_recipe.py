"""The recipe that a search leaves: plain Python that a person can read, and that `surgery apply` runs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from surgery.errors import RecipeError, first_line
from surgery.recipe import Recipe, load_recipe
from surgery.recipe_writer import written

_OWN = re.compile(r"^# (.*): of the file that this recipe was written in$", re.MULTILINE)


def recipe_text(recipe: Recipe, source: Path | None, notes: Sequence[str] = ()) -> str:
    """`recipe` as a Python file, under a docstring of `notes`.

    Classes of the user's own are those of `source`, the file that defined them.
    """
    text = written(recipe)
    if source is not None and (own := _OWN.search(text)):
        text = _OWN.sub(lambda _: _taken(own[1].split(", "), source), text)
    return '"""{}\n"""\n\n{}'.format("\n".join(notes), text) if notes else text


def _taken(names: Sequence[str], source: Path) -> str:
    """Python that takes `names` from a recipe."""
    lines = [f"{name} = own[{name!r}]" for name in names]
    start = ["from pathlib import Path", "", "from surgery.recipe_loader import run_file", ""]
    return "\n".join([*start, f"own = run_file(Path({str(source.resolve())!r}))", *lines])


def require_writable(recipe: Recipe, source: Path | None) -> None:
    """Check, before anything is measured, that the rules of `recipe` can be written as Python and read back.

    Raises:
        RecipeError: they cannot.
    """
    plain = recipe.model_copy(update={"search": None})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.py"
        path.write_text(recipe_text(plain, source))
        try:
            again = load_recipe(path)
        except RecipeError as error:
            reason = first_line(error).removeprefix(f"{path}:")
            raise RecipeError(f"the recipe cannot be written as a file: {reason}") from error
    if again.model_dump(mode="json") != plain.model_dump(mode="json"):
        raise RecipeError("the recipe cannot be written as a file that gives it again; name its functions in a module")
