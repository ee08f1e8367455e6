"""Many runs of one recipe: every combination of values, each with several seeds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from surgery.errors import RecipeError, SurgeryError
from surgery.evaluate.comparison import Comparison
from surgery.evaluate.report import render_comparison
from surgery.files import write_atomically, write_json
from surgery.progress import Progress
from surgery.recipe import Recipe, load_recipe
from surgery.run.compare import compare, plain
from surgery.run.lock import locked
from surgery.run.stages import apply

RESULT, PAGE = "sweep.json", "comparison.html"
LONGEST = 120
"""Characters of a folder's name, which file systems bound."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        folder: its name in that of the sweep.
        overrides: `name=value` each.
        recipe: with these.
    """

    folder: str
    overrides: tuple[str, ...]
    recipe: Recipe


@dataclass(frozen=True)
class Swept:
    """A sweep that has ended.

    Attributes:
        comparison: of the runs that have ended; None if none has.
        errors: of the others, by folder.
    """

    comparison: Comparison | None
    errors: dict[str, SurgeryError]

    def require_all(self) -> None:
        """Raise SurgeryError, with the exit status of the first failure, if a run failed."""
        for folder, error in self.errors.items():
            others = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
            failed = SurgeryError(f"{folder}: {error}{others}")
            failed.exit_status = error.exit_status
            raise failed


def planned(recipe: Path, settings: Sequence[str], seeds: int) -> list[Planned]:
    """The runs of a sweep, the seeds of a combination one after the other.

    Args:
        recipe: Python file that defines `recipe`.
        settings: `name=value,value` each; commas inside of brackets or quotes belong to a value.
        seeds: how many of them, counted from the recipe's.

    Raises:
        RecipeError: a setting or a value is wrong, there is a line for each; or two combinations are the same run.
    """
    if seeds < 1:
        raise RecipeError(f"--seeds {seeds}: name at least 1")
    if seeds > 1 and any(setting.startswith("seed=") for setting in settings):
        raise RecipeError("--set seed=... and --seeds both name seeds; leave one of them out")
    runs, lines = list[Planned](), list[str]()
    for combination in product(*map(values_of, settings)):
        try:
            first = load_recipe(recipe, combination)
        except RecipeError as error:
            lines += str(error).splitlines()
            continue
        for seed in range(first.seed, first.seed + seeds):
            others = [each for each in combination if not each.startswith("seed=")]
            named = (*others, f"seed={seed}")
            runs.append(Planned(folder_of(named), named, first.model_copy(update={"seed": seed})))
    if lines:
        raise RecipeError("\n".join(dict.fromkeys(lines)))
    _require_different(runs)
    return runs


def _require_different(runs: Sequence[Planned]) -> None:
    """Refuse values that are the same in other words: their runs would count as two seeds of one."""
    known: dict[str, Planned] = {}
    for run in runs:
        before = known.setdefault(run.recipe.model_dump_json(), run)
        if before is not run:
            one, other = (", ".join(each.overrides) for each in (before, run))
            raise RecipeError(f"--set: {one} and {other} are the same run; leave one of them out")


def sweep(recipe: Path, runs: Sequence[Planned], out: Path, *, resume: bool, device: str, progress: Progress) -> Swept:
    """Do `runs`, each in a folder of its own in `out`; one that fails does not keep the others from going on.

    What is compared in the end is in `sweep.json` and `comparison.html`.

    Args:
        recipe: its name.
        runs: see `planned`.
        out: a folder that does not exist or is empty; with `resume`, that of a sweep, which may have had other values.
        resume: go on with what is there.
        device: where to train.
        progress: shows how far it has come.

    Raises:
        RecipeError: `out` holds something else, or another sweep without `resume`.
    """
    with locked(out):
        _require_own(out, resume)
        errors: dict[str, SurgeryError] = {}
        for number, run in enumerate(runs, 1):
            progress.say(f"run {number} of {len(runs)}: {', '.join(run.overrides)}")
            try:
                apply(run.recipe, out / run.folder, resume=True, device=device, progress=progress, name=str(recipe))
            except SurgeryError as error:
                errors[run.folder] = error
                progress.say(f"failed: {error}")
            _write(out, recipe, runs, errors, None)
        ended = [out / run.folder for run in runs if run.folder not in errors]
        comparison = compare(ended) if ended else None
        _write(out, recipe, runs, errors, comparison)
    return Swept(comparison, errors)


def _write(
    out: Path, recipe: Path, runs: Sequence[Planned], errors: dict[str, SurgeryError], comparison: Comparison | None
) -> None:
    words = {folder: str(error) for folder, error in errors.items()}
    listed = [{"folder": run.folder, "set": list(run.overrides), "error": words.get(run.folder)} for run in runs]
    content: dict[str, Any] = {"recipe": str(recipe), "runs": listed}
    if comparison is not None:
        content |= plain(comparison)
        write_atomically(out / PAGE, render_comparison(comparison).encode())
    write_json(out / RESULT, content)


def _require_own(out: Path, resume: bool) -> None:
    if (out / RESULT).exists():
        if not resume:
            raise RecipeError(f"{out}: holds another sweep; continue it with --resume, or choose another --out")
    elif any(out.iterdir()) and not resume:
        raise RecipeError(f"{out}: holds other files; choose another --out")


def values_of(setting: str) -> list[str]:
    """`a=1,2` as `a=1` and `a=2`."""
    name, equals, values = setting.partition("=")
    if not (name and equals and values):
        raise RecipeError(f"--set {setting}: write it as name=value,value, e.g. --set finetune.lr=1e-3,1e-4")
    return [f"{name}={value}" for value in _split(values)]


def _split(text: str) -> list[str]:
    """`text` at the commas that are in no brackets and no quotes."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += 0 if quoted else (character in "[{(") - (character in ")}]")
        if character == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def folder_of(overrides: Sequence[str]) -> str:
    """A name that tells the values, and of which no two combinations have the same."""
    text = ",".join(overrides)
    plain = re.sub(r"[^\w.,=+-]", "-", text)
    if plain == text and len(text) <= LONGEST:
        return text
    return f"{plain[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
