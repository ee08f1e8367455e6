"""The folder that a run writes. It belongs to one recipe; every file in it appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgery.errors import ArtifactError, RecipeError
from surgery.evaluate.results import Metrics, StageMetrics
from surgery.files import write_atomically
from surgery.training.checkpoint import CheckpointStore

RECIPE = "recipe.json"


class RunFolder:
    """Reads and writes the files of a run by name; see `docs/runs.md` for what they hold."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path, recipe: dict[str, Any], *, resume: bool) -> RunFolder:
        """The folder at `path`, new or resumed, with `recipe` written to it.

        Raises:
            RecipeError: the folder holds something else, or a run that `resume` does not ask for or does not fit.
        """
        folder = cls(path)
        if folder.path.exists() and not folder.path.is_dir():
            raise RecipeError(f"{path}: is a file; choose another --out")
        if (folder.path / RECIPE).exists():
            folder._require_same(recipe, resume)
        elif any(not _is_leftover(entry) for entry in _entries(folder.path)):
            raise RecipeError(f"{path}: holds other files; choose another --out")
        else:
            folder.write_json(RECIPE, recipe)
        return folder

    def _require_same(self, recipe: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise RecipeError(f"{self.path}: holds another run; continue it with --resume, or choose another --out")
        before = self.read_json(RECIPE)
        differing = [key for key in recipe if before.get(key) != recipe[key]]
        if differing:
            names = ", ".join(differing)
            raise RecipeError(
                f"{self.path}: holds a run of another recipe, it differs in {names}; choose another --out"
            )

    @property
    def model(self) -> Path:
        """Where the artifact goes."""
        return self.path / "model"

    @property
    def checkpoints(self) -> CheckpointStore:
        """The checkpoints of the training stages."""
        return CheckpointStore(self.path / "checkpoints")

    def sample(self, stage: str) -> Path:
        """Where the sample grid of `stage` goes."""
        return self.path / "samples" / f"{stage}.png"

    def stages(self) -> dict[str, StageMetrics]:
        """What was measured so far, by stage."""
        if not (self.path / "metrics.json").exists():
            return {}
        return {s.stage: s for s in Metrics.model_validate(self.read_json("metrics.json")).stages}

    def write_json(self, name: str, content: Any) -> None:
        """Write `content` to the file `name`."""
        self.write(name, json.dumps(content, indent=2).encode() + b"\n")

    def write(self, name: str, content: bytes) -> None:
        """Write `content` to the file `name`."""
        write_atomically(self.path / name, content)

    def read(self, name: str) -> str:
        """The text of the file `name`.

        Raises:
            ArtifactError: it is not there; the run has not come that far.
        """
        try:
            return (self.path / name).read_text()
        except OSError as error:
            raise ArtifactError(
                f"{self.path / name}: cannot be read ({error.strerror}); name the folder of a finished run"
            ) from error

    def read_json(self, name: str) -> Any:
        """The content of the JSON file `name`; raises like `read`, and if it is no JSON."""
        try:
            return json.loads(self.read(name))
        except json.JSONDecodeError as error:
            raise ArtifactError(f"{self.path / name}: truncated or altered ({error.msg}); repeat the run") from error


def _entries(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.exists() else []


def _is_leftover(entry: Path) -> bool:
    """What a killed process leaves behind before the recipe is written."""
    return entry.name.startswith(f".{RECIPE}.") and entry.name.endswith(".tmp")
