"""The folder that a run writes. It belongs to one recipe; every file in it appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from surgery.artifact import is_artifact
from surgery.errors import ArtifactError, RecipeError, SurgeryError, in_one_line
from surgery.evaluate.results import Metrics, StageMetrics
from surgery.files import json_text, require_folder, write_atomically
from surgery.parallel.group import by_first
from surgery.rewriting import Plan
from surgery.run.lock import locked
from surgery.run.loggers.lines import read_lines
from surgery.run.origin import Origin
from surgery.training.checkpoint import CheckpointStore

Read = TypeVar("Read", bound=BaseModel)
RECIPE, DATA = "recipe.json", "data"
SOURCE = "recipe.py"
"""The recipe as Python, to be read and to be run."""
ANALYSIS = "analysis.json"
"""Figures of the teacher's layers, if the recipe selects by them, or `surgery analyze` has put them here."""
ORIGINS, LOSSES, LIVE_LOSSES = "run.json", "losses.json", "losses.jsonl"
IDENTITY = "identity"
"""The key of `recipe.json` for what a resumed run is compared with."""


class RunFolder:
    """Reads and writes the files of a run by name; see `docs/runs.md` for what they hold."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(
        cls, path: str | Path, recipe: dict[str, Any], *, resume: bool, identity: Mapping[str, str] | None = None
    ) -> RunFolder:
        """The folder at `path`, new or resumed, with `recipe` written to it.

        Args:
            path: of the folder, which is locked.
            recipe: as JSON.
            resume: go on with a run that is there.
            identity: what that must have in common with this one besides the recipe, by name.

        Raises:
            RecipeError: the folder holds something else, or a run that `resume` does not ask for or does not fit.
        """
        folder = cls(path)
        by_first(partial(folder._begin, {**recipe, IDENTITY: dict(identity or {})}, resume))
        return folder

    @classmethod
    def require(cls, path: str | Path, recipe: dict[str, Any] | None = None, *, resume: bool = False) -> None:
        """Check, before anything is loaded, all that `open` finds wrong without an identity; nothing is left there.

        Args:
            path: of the folder, which may be there.
            recipe: as JSON; None where only data are to be made, which fit every run.
            resume: see `open`.

        Raises:
            RecipeError: see `open` and `locked`.
        """
        folder = cls(path)
        by_first(partial(require_folder, folder.path))
        if by_first(folder.path.exists):
            with locked(path):
                by_first(partial(folder._require_fitting, recipe, resume))

    def _require_fitting(self, recipe: dict[str, Any] | None, resume: bool) -> None:
        if recipe is not None and is_run(self.path):
            self._require_same(recipe, resume)
        else:
            self.require_own()

    def _begin(self, recipe: dict[str, Any], resume: bool) -> None:
        self._require_fitting(recipe, resume)
        if not is_run(self.path):
            self.write_json(RECIPE, recipe)
        for leftover in self.path.rglob(".*.tmp"):  # of a process that was killed: no other one is at work here
            leftover.unlink()

    def require_own(self) -> None:
        """Check that the folder holds no other files than a run's, or data that were made beforehand.

        Raises:
            RecipeError: it does.
        """
        if not is_run(self.path) and any(not _is_leftover(entry) for entry in _entries(self.path)):
            raise RecipeError(f"{self.path}: holds other files; choose another --out")

    def _require_same(self, recipe: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise RecipeError(
                f"{self.path}: holds another run; continue it with --resume (in Python, resume=True), "
                "or choose another --out"
            )
        before = self.read_json(RECIPE)
        then, now = (each.get(IDENTITY, {}) for each in (before, recipe))
        differing = [key for key in recipe if key != IDENTITY and before.get(key) != recipe[key]]
        differing += [name for name in now if not differing and name in then and then[name] != now[name]]
        if differing:
            names = ", ".join(differing)
            raise RecipeError(
                f"{self.path}: holds a run of another recipe, it differs in {names}; choose another --out"
            )

    @property
    def model(self) -> Path:
        """Where the artifact goes."""
        return self.path / "model"

    def finished_model(self) -> Path:
        """As `model`, which is there.

        Raises:
            ArtifactError: the run is not finished, or the folder is that of no run.
        """
        self.recipe()
        if not is_artifact(self.model):
            raise ArtifactError(
                f"{self.path}: holds a run that is not finished; "
                f"go on with it by surgery apply RECIPE --out {self.path} --resume"
            )
        return self.model

    @property
    def data(self) -> Path:
        """Where training data go that are made first."""
        return self.path / DATA

    @property
    def checkpoints(self) -> CheckpointStore:
        """The checkpoints of the training stages."""
        return CheckpointStore(self.path / "checkpoints")

    def sample(self, stage: str) -> Path:
        """Where the sample grid of `stage` goes."""
        return self.path / "samples" / f"{stage}.png"

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe.

        Raises:
            ArtifactError: the folder is that of no run, be it that of a search, or the file is damaged.
        """
        if not is_run(self.path):
            raise ArtifactError(f"{self.path}: holds no run; name a folder that surgery apply has written")
        recipe = {name: value for name, value in self.read_json(RECIPE).items() if name != IDENTITY}
        if "model" not in recipe:
            raise self.altered(RECIPE, "it names no model")
        if recipe.get("search"):
            raise ArtifactError(
                f"{self.path}: holds a search, no run; apply the recipe that it has found, and name that run"
            )
        return recipe

    def metrics(self) -> Metrics:
        """What was measured so far."""
        if (self.path / "metrics.json").exists():
            return self.read_model("metrics.json", Metrics)
        return Metrics(stages=(), seed=self.recipe().get("seed", 0), recipe="recipe")

    def stages(self) -> dict[str, StageMetrics]:
        """What was measured so far, by stage."""
        return by_first(lambda: {s.stage: s for s in self.metrics().stages})

    def losses(self) -> list[dict[str, Any]]:
        """The losses of each step so far, those of a run that goes on included."""
        if (self.path / LOSSES).exists():
            listed: list[dict[str, Any]] = self.read_json(LOSSES, list)
            return listed
        return read_lines(self.read(LIVE_LOSSES, missing=""))

    def origins(self) -> list[Origin]:
        """The processes that worked on the run, the first one first."""
        return [Origin.model_validate(each) for each in self.read_json(ORIGINS, list, missing=[])]

    def add_origin(self, origin: Origin) -> None:
        """Note who works on the run now, unless all of it is done."""
        if not (self.path / LOSSES).exists():
            self.write_json(ORIGINS, [each.model_dump() for each in (*self.origins(), origin)])

    def write_json(self, name: str, content: Any) -> None:
        """Write `content` to the file `name`."""
        self.write(name, json_text(content))

    def write(self, name: str, content: bytes) -> None:
        """Write `content`, that of the first process, to the file `name`; it is there once this returns."""
        by_first(partial(write_atomically, self.path / name, content))

    def remove(self, name: str) -> None:
        """Remove the file `name`, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def read(self, name: str, *, missing: str | None = None) -> str:
        """The text of the file `name`, or else `missing`.

        Raises:
            ArtifactError: it is not there, as the run has not come that far, and nothing is given for it.
        """
        if missing is not None and not (self.path / name).exists():
            return missing
        try:
            return (self.path / name).read_text()
        except OSError as error:
            raise ArtifactError(
                f"{self.path / name}: cannot be read ({error.strerror}); name the folder of a finished run"
            ) from error

    def read_json(self, name: str, kind: type = dict, *, missing: Any = None) -> Any:
        """The content of the JSON file `name`, a `kind`; raises like `read`, and if it is something else."""
        if missing is not None and not (self.path / name).exists():
            return missing
        try:
            content = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise self.altered(name, in_one_line(error)) from error
        if not isinstance(content, kind):
            raise self.altered(name, f"it holds a {type(content).__name__}")
        return content

    def read_model(self, name: str, model: type[Read]) -> Read:
        """The content of the JSON file `name` as a `model`; raises like `read`, and if it is none."""
        content = self.read_json(name)
        try:
            return model.model_validate(content)
        except (ValidationError, SurgeryError) as error:
            first = f"{e['msg']} at {'.'.join(map(str, e['loc']))}" if (e := _first(error)) else str(error)
            raise self.altered(name, first) from error

    def altered(self, name: str, why: str) -> ArtifactError:
        """The error for a file that is not as it was written."""
        return ArtifactError(f"{self.path / name}: truncated or altered ({why[:200]}); repeat the run")


def is_run(folder: str | Path) -> bool:
    """Whether `folder` is that of a run, finished or not."""
    return (Path(folder) / RECIPE).is_file()


def plan_of(folder: str | Path) -> Plan:
    """The plan of the run in `folder`; raises as `RunFolder.read_model`."""
    return RunFolder(folder).read_model("plan.json", Plan)


def model_of(name: str) -> str:
    """The folder of the student if `name` is the folder of a run, else `name`.

    Raises:
        ArtifactError: the run is not finished, or is a search.
    """
    if not is_run(name) or is_artifact(name):
        return name
    return str(RunFolder(name).finished_model())


def _first(error: Exception) -> Any:
    return error.errors()[0] if isinstance(error, ValidationError) else None


def _entries(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.exists() else []


def _is_leftover(entry: Path) -> bool:
    """What a killed process leaves behind before the recipe is written, or `surgery cache` has made."""
    return entry.name == DATA or (entry.name.startswith(f".{RECIPE}.") and entry.name.endswith(".tmp"))
