"""Finetuning the sets of a shortlist briefly and judging them, as estimates alone do not tell which is best."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from surgery.progress import Progress
from surgery.rewriting.edit import new_paths
from surgery.run.folder import RunFolder
from surgery.run.measure import Measuring
from surgery.run.prepare import Opened
from surgery.search.candidates import Candidate
from surgery.search.harm import Distilled
from surgery.search.result import Value
from surgery.training.checkpoint import CheckpointStore
from surgery.training.config import StageConfig
from surgery.training.finetune import finetune, require_learnable

FILE = "shortlist.json"
Stage = TypeVar("Stage", bound=StageConfig)


class Shortlist:
    """Judges students of one search. What was judged is kept in the folder, and not judged again.

    Args:
        opened: the recipe, its model and its data.
        steps: of finetuning.
        distilled: makes the students.
        folder: of the search.
        progress: shows how far it has come.
    """

    def __init__(self, opened: Opened, steps: int, distilled: Distilled, folder: RunFolder, progress: Progress) -> None:
        self._opened, self._distilled = opened, distilled
        self._config = shortened(opened.recipe.finetune, steps)
        self._folder, self._progress = folder, progress
        self.measuring = Measuring(opened, progress)
        self._known: dict[str, Any] = folder.read_json(FILE) if (folder.path / FILE).exists() else {}

    def teacher(self) -> Mapping[str, Value]:
        """The metrics of the teacher."""
        return self._judged("teacher", lambda: self._opened.teacher.model, "teacher")

    def metrics(self, chosen: Sequence[Candidate]) -> Mapping[str, Value]:
        """The metrics of the student with the edits of `chosen`, after its finetuning."""
        name = "+".join(candidate.key for candidate in chosen)
        return self._judged(name, lambda: self._finetuned(chosen, name), "finetuned")

    def _judged(self, name: str, model: Any, stage: Any) -> Mapping[str, Value]:
        if name not in self._known:
            start = time.perf_counter()
            context = self.measuring.context(stage, model())
            measured = self.measuring.measure(stage, context, time.perf_counter() - start)
            self._known[name] = measured.values
            self._folder.write_json(FILE, self._known)
        found: Mapping[str, Value] = self._known[name]
        return found

    def _finetuned(self, chosen: Sequence[Candidate], name: str) -> nn.Module:
        student = self._distilled.student(chosen)
        new = new_paths([edit for candidate in chosen for edit in candidate.edits])
        require_learnable(student, new, self._config)
        short = hashlib.sha256(name.encode()).hexdigest()[:12]
        finetune(
            self._opened.teacher.model,
            student,
            new,
            self._opened.data,
            self._config,
            seed=self._opened.recipe.seed,
            checkpoints=CheckpointStore(self._folder.path / "checkpoints" / f"set-{short}"),
            progress=self._progress,
        )
        return student


def shortened(config: Stage, steps: int) -> Stage:
    """`config` for so many steps, of which a quarter at most warm up."""
    return config.model_copy(update={"steps": steps, "warmup": min(config.warmup, steps // 4)})
