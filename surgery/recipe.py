"""Recipes: what a user writes, and how it is loaded from a Python file."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SerializeAsAny, ValidationError

from surgery.config import Config, collecting_errors, describe, did_you_mean
from surgery.errors import RecipeError, SurgeryError
from surgery.evaluate.settings import Evaluate
from surgery.rewrite.rule import Rule
from surgery.training.distil import Distil
from surgery.training.finetune import Finetune

__all__ = ["Distil", "Evaluate", "Finetune", "Recipe", "load_recipe"]


class Recipe(Config):
    """One run: which model, which rules, how to teach the new nodes, how to judge the result.

    Attributes:
        model: a built-in name, a folder written by diffusers, or a hub id.
        rules: applied together to the model.
        data: `digits`, or a safetensors file with `latents` (N, C, H, W) and conditions named like forward's keywords.
        distil: stage 1, new operators learn the old ones' outputs.
        finetune: stage 2, the whole student learns the diffusion loss.
        evaluate: how each stage is judged.
        seed: of everything random.
    """

    model: str
    rules: tuple[SerializeAsAny[Rule], ...]
    data: str = "digits"
    distil: Distil = Distil()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    seed: int = 0


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Run the Python file at `path` and take its global `recipe`.

    Args:
        path: the recipe; its folder is importable while it runs.
        overrides: `dotted.path=value` each, e.g. `distil.steps=10` or `rules.0.operator.kernel=8`; the value is JSON, or
            else a string.

    Raises:
        RecipeError: with a line for each thing that is wrong, naming file and line.
    """
    path = Path(path)
    found = _execute(path, _read(path))
    return _override(found, overrides) if overrides else found


def _read(path: Path) -> str:
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder; name a Python file that defines `recipe`")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise RecipeError(f"{path}: no such file{did_you_mean(path.name, beside)}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None


def _execute(path: Path, source: str) -> Recipe:
    try:
        code = compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise RecipeError(f"{path}:{line}: {getattr(error, 'msg', error)}") from None
    namespace: dict[str, Any] = {"__name__": "__recipe__", "__file__": str(path)}
    with collecting_errors(path) as lines, _importable(path.parent):
        try:
            exec(code, namespace)
        except Exception as error:
            lines.append(_failure(path, error))
    if lines:
        raise RecipeError("\n".join(lines))
    return _result(path, namespace)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


def _failure(path: Path, error: Exception) -> str:
    """One line for an exception that a recipe raised, at the recipe's own line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    where = f"{path}:{frames[-1].lineno}" if frames else str(path)
    text = " ".join(str(error).split())
    if isinstance(error, SurgeryError):
        return f"{where}: {text}"
    wrong = re.match(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'", text)
    if wrong and frames:
        return f"{where}: {wrong[1]}: unknown key {wrong[2]!r}{_near_parameter(error, wrong[1], wrong[2])}"
    return f"{where}: {type(error).__name__}: {text}"


def _near_parameter(error: Exception, function: str, word: str) -> str:
    """What the function called `function`, looked up in the recipe's frame, would have taken."""
    import inspect

    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    called = step.tb_frame.f_globals.get(function) if step else None
    return did_you_mean(word, inspect.signature(called).parameters) if callable(called) else ""


def _result(path: Path, namespace: dict[str, Any]) -> Recipe:
    if "recipe" not in namespace:
        others = [name for name, value in namespace.items() if isinstance(value, Recipe)]
        hint = f", but {others[0]!r} is one: rename it" if others else ": add `recipe = Recipe(...)`"
        raise RecipeError(f"{path}: defines no `recipe`{hint}")
    found = namespace["recipe"]
    if not isinstance(found, Recipe):
        raise RecipeError(f"{path}: `recipe` is a {type(found).__name__}, not a Recipe")
    return found


def _override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """`recipe` with each override made; every wrong one is reported."""
    lines: list[str] = []
    for override in overrides:
        try:
            recipe = _set(recipe, _parse(override), override)
        except RecipeError as error:
            lines.append(str(error))
    if lines:
        raise RecipeError("\n".join(lines))
    return recipe


def _parse(override: str) -> tuple[list[str], Any]:
    key, equals, text = override.partition("=")
    if not (key and equals):
        raise RecipeError(f"--set {override}: write it as name=value, e.g. --set distil.steps=100")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return key.split("."), value


def _set(part: Any, override: tuple[list[str], Any], text: str) -> Any:
    """`part` (a config or a tuple) with the value at a dotted path replaced and checked."""
    (name, *rest), value = override
    if isinstance(part, tuple):
        if not (name.isdigit() and int(name) < len(part)):
            raise RecipeError(f"--set {text}: {name!r} is no index; there are {len(part)} (from 0)")
        items = list(part)
        items[int(name)] = _set(items[int(name)], (rest, value), text) if rest else value
        return tuple(items)
    if not isinstance(part, Config):
        raise RecipeError(f"--set {text}: {name!r} is inside a value that has no parts")
    fields = type(part).model_fields
    if name not in fields:
        raise RecipeError(f"--set {text}: unknown key {name!r}{did_you_mean(name, fields)}")
    new = _set(getattr(part, name), (rest, value), text) if rest else value
    try:
        return type(part)(**{**{n: getattr(part, n) for n in fields}, name: new})
    except ValidationError as error:
        raise RecipeError("\n".join(f"--set {text}: {line}" for line in describe(error, type(part)))) from None
