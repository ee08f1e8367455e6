"""Several runs side by side: what `surgery compare` reads from their folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from surgery.artifact import is_artifact
from surgery.errors import RecipeError, SurgeryError
from surgery.evaluate.comparison import TEACHER, Comparison, Group, Member, Spread
from surgery.evaluate.report.words import columns_of, headline
from surgery.evaluate.results import Metrics
from surgery.recipe import Recipe
from surgery.recipe_writer import expression
from surgery.run.folder import RunFolder
from surgery.run.report import status_of

RULES = "rules"


def compare(folders: Sequence[str | Path]) -> Comparison:
    """Read the runs in `folders`, finished or not, and put those together that differ by their seed alone.

    Raises:
        ArtifactError: a folder holds no run, or a file of it is damaged.
        RecipeError: a folder is named twice, which would count as two seeds.
    """
    places = [Path(folder).resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise RecipeError(f"{folders[number]}: is named twice; leave one of them out")
    recipes = [_with_defaults(RunFolder(folder).recipe()) for folder in folders]
    members = [_member(str(folder), recipe) for folder, recipe in zip(folders, recipes, strict=True)]
    alike = _alike(recipes)
    firsts = [recipes[numbers[0]] for numbers in alike]
    names = _names([members[numbers[0]].folder for numbers in alike])
    groups = [
        Group(name, [members[n] for n in numbers], differs)
        for name, numbers, differs in zip(names, alike, _differences(firsts), strict=True)
    ]
    whole = Metrics(
        stages=tuple(stage for member in members for stage in member.metrics.stages),
        seed=0,
        recipe="",
        columns={name: column for member in members for name, column in member.metrics.columns.items()},
    )
    return Comparison(groups, columns_of(whole), headline(whole))


def _alike(recipes: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Which recipes differ by their seed alone; a second run of one seed is no other seed, and stands by itself."""
    groups: dict[str, list[list[int]]] = {}
    for number, recipe in enumerate(recipes):
        of_recipe = groups.setdefault(json.dumps({**recipe, "seed": None}, sort_keys=True), [])
        without = (group for group in of_recipe if all(recipes[n]["seed"] != recipe["seed"] for n in group))
        group = next(without, None)
        if group is None:
            of_recipe.append([number])
        else:
            group.append(number)
    return [group for of_recipe in groups.values() for group in of_recipe]


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON."""
    return {
        "groups": [
            {
                "name": group.name,
                "runs": [{"folder": m.folder, "seed": m.metrics.seed, "ended": not m.status} for m in group.members],
                "differs": group.differs,
                "stages": [
                    {"stage": stage, **{name: _spread(group.at(stage, name)) for name in comparison.columns}}
                    for stage in comparison.stages
                ],
            }
            for group in comparison.groups
        ],
        "columns": {name: column.model_dump() for name, column in comparison.columns.items()},
    }


def _spread(spread: Spread | None) -> dict[str, float | int | None] | None:
    return None if spread is None else {"mean": spread.mean, "deviation": spread.deviation, "runs": spread.runs}


def _member(name: str, recipe: dict[str, Any]) -> Member:
    folder = RunFolder(name)
    metrics, losses = folder.metrics(), folder.losses()
    students = [stage.stage for stage in metrics.stages if stage.stage != TEACHER]
    grids = [folder.sample(stage) for stage in (TEACHER, *students[-1:])]
    teacher, *student = [grid.read_bytes() if grid.exists() else None for grid in grids]
    status = "" if is_artifact(folder.model) else status_of(metrics, losses, recipe)
    return Member(name, metrics, losses, status, student[0] if student else None, teacher)


def _with_defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of an earlier version has fewer keys; one with classes of a user is left as it is."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except (SurgeryError, ValidationError):
        return recipe


def _names(folders: Sequence[str]) -> list[str]:
    """The last part of each path if that tells them apart, else all of it."""
    short = [Path(folder).resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)


def _differences(recipes: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What of each recipe is not the same in all, by its path; the seed does not count."""
    flat = [dict(_flat({**recipe, "seed": None})) for recipe in recipes]
    paths = dict.fromkeys(path for each in flat for path in each)
    differing = [path for path in paths if len({each.get(path) for each in flat}) > 1]
    return [{path: each[path] for path in differing if path in each} for each in flat]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The values of a recipe as Python, by their paths; a rule is one value."""
    if path == RULES:
        yield path, _rules(value)
    elif isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}" if path else key)
    else:
        yield path, repr(value)


def _rules(rules: Any) -> str:
    """Rules as they are written; those of a user's class, which may not be at hand, as JSON."""
    try:
        return ", ".join(map(expression, Recipe(model="", rules=rules).rules))
    except (SurgeryError, ValidationError):
        return json.dumps(rules)
