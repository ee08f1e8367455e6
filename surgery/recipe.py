"""Recipes: what a user writes, and how it is loaded from a Python file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

import surgery.rules  # noqa: F401  # its kinds are known then
from surgery.config import Config, PathText
from surgery.data import AnyData, FashionMNIST, Generated, Images, Latents, Videos
from surgery.errors import ConfigError, RecipeError
from surgery.evaluate.settings import Evaluate
from surgery.pipelines.times import CosMap, LogitNormal, MinSNR, Mode, Sigma, Uniform
from surgery.recipe_loader import run_file
from surgery.rewriting.rule import AnyRule
from surgery.search.budget import Budget, Search
from surgery.training.distil import Distil
from surgery.training.finetune import Finetune
from surgery.training.lora import LoRA
from surgery.training.objective import Target
from surgery.wording import did_you_mean, nearest

__all__ = [
    "Budget",
    "CosMap",
    "Distil",
    "Evaluate",
    "FashionMNIST",
    "Finetune",
    "Generated",
    "Images",
    "Latents",
    "LoRA",
    "LogitNormal",
    "MinSNR",
    "Mode",
    "Recipe",
    "Search",
    "Sigma",
    "Target",
    "Uniform",
    "Videos",
    "load_recipe",
]


class Recipe(Config):
    """One run: which model, which rules, how to teach the new nodes, how to judge the result.

    It is data: `Recipe.model_validate` gives the recipe again that `model_dump(mode="json")` wrote.

    Attributes:
        model: a built-in name, a folder written by diffusers, or a hub id.
        rules: applied together to the model.
        data: of the pipeline `model`: `Generated(...)`, which it makes itself, `Images(...)`, `Videos(...)` or
            `Latents(...)`; or "digits", those that `digits-dit` was trained on; or "fashion-mnist", those of
            `fashion-dit`, which is `FashionMNIST()`.
        distil: stage 1, new operators learn the old ones' outputs.
        finetune: stage 2, the whole student is trained end to end.
        evaluate: how each stage is judged; None judges none, and measures only what they cost.
        search: how `surgery search` chooses among the rules, which are candidates then and need not fit together; such a
            recipe is not applied itself.
        seed: of everything random.
        dtype: of the models. In bfloat16, weights that are trained have float32 beside them, and losses and averages are
            in float32.
    """

    model: PathText
    rules: Annotated[Sequence[AnyRule], AfterValidator(tuple)]
    data: AnyData = "digits"
    distil: Distil = Distil()
    finetune: Finetune = Finetune()
    evaluate: Evaluate | None = Evaluate()
    search: Search | None = None
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Run the Python file at `path` and take its global `recipe`.

    Args:
        path: the recipe; its folder is importable while it runs.
        overrides: `dotted.path=value` each, e.g. `distil.steps=10`, `rules.0.operator.kernel=8` or
            `data.call.height=512`; the value is JSON, or else a string.

    Raises:
        RecipeError: with a line for each thing that is wrong, naming file and line.
    """
    path = Path(path)
    return override(_recipe_in(path, run_file(path)), overrides)


def _recipe_in(path: Path, namespace: dict[str, Any]) -> Recipe:
    if "recipe" not in namespace:
        raise RecipeError(f"{path}: defines no `recipe`{_other_name(namespace)}")
    found = namespace["recipe"]
    if not isinstance(found, Recipe):
        kind = "class" if isinstance(found, type) else type(found).__name__
        raise RecipeError(f"{path}: `recipe` is a {kind}, not a Recipe")
    return found


def _other_name(namespace: dict[str, Any]) -> str:
    """Under which name the recipe may have been defined."""
    for name, value in namespace.items():
        if isinstance(value, Recipe):
            return f", but {name!r} is one: rename it"
    values = [name for name, value in namespace.items() if not isinstance(value, type | ModuleType)]
    return nearest("recipe", values) or ": add `recipe = Recipe(...)`"


def with_budget(recipe: Recipe, limits: Sequence[str]) -> Recipe:
    """`recipe` with the budget of `limits`, `name=amount` each, in the place of its own; itself if there are none.

    Raises:
        RecipeError: a limit is not one.
    """
    if not limits:
        return recipe
    given: dict[str, Any] = {}
    for limit in limits:
        name, equals, amount = limit.partition("=")
        if not (name and equals):
            raise RecipeError(f"--budget {limit}: write it as name=amount, e.g. --budget flops=0.8")
        given[name] = _number_or_text(amount)
    try:
        budget = Budget(**given)
    except ConfigError as error:
        raise RecipeError("\n".join(f"--budget {' '.join(limits)}: {line}" for line in error.lines)) from None
    search = recipe.search or Search(budget=budget)
    return recipe.model_copy(update={"search": search.model_copy(update={"budget": budget})})


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """`recipe` with each override made, see `load_recipe`.

    Raises:
        RecipeError: with a line for each that is wrong.
    """
    lines: list[str] = []
    for each in overrides:
        try:
            recipe = _set(recipe, _parse(each), each)
        except RecipeError as error:
            lines.append(str(error))
    if lines:
        raise RecipeError("\n".join(lines))
    return recipe


def _parse(text: str) -> tuple[list[str], Any]:
    key, equals, given = text.partition("=")
    if not (key and equals):
        raise RecipeError(f"--set {text}: write it as name=value, e.g. --set distil.steps=100")
    try:
        value = json.loads(given)
    except json.JSONDecodeError:
        value = given
    return key.split("."), value


def _set(part: Any, override: tuple[list[str], Any], text: str) -> Any:
    """`part` (a config, a list or keywords) with the value at a dotted path replaced and checked."""
    (name, *rest), value = override
    if isinstance(part, dict):
        if rest and name not in part:
            raise RecipeError(f"--set {text}: unknown key {name!r}{did_you_mean(name, part)}")
        return {**part, name: _set(part[name], (rest, value), text) if rest else value}
    if isinstance(part, tuple | list):
        if not (name.isdigit() and int(name) < len(part)):
            raise RecipeError(f"--set {text}: no item {name!r}; there are {len(part)}, counted from 0")
        items = list(part)
        items[int(name)] = _set(items[int(name)], (rest, value), text) if rest else value
        return type(part)(items)
    if part is None:
        raise RecipeError(f"--set {text}: {name!r} is inside a value that is None; set that as a whole, as JSON")
    if not isinstance(part, Config):
        raise RecipeError(f"--set {text}: {name!r} is inside a value that has no parts")
    fields = type(part).model_fields
    if name not in fields:
        raise RecipeError(f"--set {text}: unknown key {name!r}{did_you_mean(name, fields)}")
    new = _set(getattr(part, name), (rest, value), text) if rest else value
    try:
        return type(part)(**{**{n: getattr(part, n) for n in fields}, name: new})
    except ConfigError as error:
        raise RecipeError("\n".join(f"--set {text}: {line}" for line in error.lines)) from None
