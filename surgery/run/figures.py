"""Figures of an analysis for the selections of a recipe that ask for them by name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from surgery.errors import RecipeError
from surgery.files import write_json
from surgery.graph import ModelGraph
from surgery.parallel.group import by_first
from surgery.progress import Progress
from surgery.recipe import Recipe
from surgery.run.analyze import analyze
from surgery.run.subject import Subject
from surgery.run.subject_to_analyze import Sampling, analyzed_subject
from surgery.statistics.layers import by_path

STEPS = 10
"""Of the pipeline, which is enough to rank layers by."""
TEXTS = 4
"""Prompts that it is run with, one at a time."""
FORMAT = 2
"""Raised when figures come to mean something else."""


def asked_by(recipe: Recipe) -> list[str]:
    """The selections of a recipe that ask for figures, in words."""
    return [str(rule.layers) for rule in recipe.rules if rule.layers.figures()]


def give_figures(graph: ModelGraph, recipe: Recipe, subject: Subject, progress: Progress) -> None:
    """Let `graph`, of the teacher of `recipe`, have the figures that its selections ask for, if they ask for any.

    An analysis is kept in the user's cache, under a digest of all that it depends on, and not made again.

    Raises:
        SurgeryError: the model cannot be analyzed.
    """
    if not asked_by(recipe):
        return
    calls = subject.sampler.calls
    texts = 0 if calls.labels else len(calls.prompts)
    sampling = Sampling(STEPS, max(1, min(texts, TEXTS)), recipe.seed)
    file = _file(
        {
            "format": FORMAT,
            "dtype": recipe.dtype,
            "calls": asdict(calls),
            "sampling": asdict(sampling),
            **{name: value for name, value in subject.data.identity.items() if name != "data"},
        }
    )
    found = by_first(partial(_found, file, recipe.model, subject, sampling, progress))
    graph.figures = by_path(found)


def _found(file: Path, model: str, subject: Subject, sampling: Sampling, progress: Progress) -> dict[str, Any]:
    """The analysis in `file`, made first if it is not there."""
    found = _read(file)
    if found is None:
        found = analyze(model, analyzed_subject(subject, sampling), sampling, None, progress)
        subject.sampler.holder.release()
        write_json(file, found)
    return found


def require_no_figures(recipe: Recipe) -> None:
    """Refuse selections by figures where there are no weights to analyze.

    Raises:
        RecipeError: there is one.
    """
    asked = asked_by(recipe)
    if asked:
        raise RecipeError(
            f"layers: {asked[0]} needs an analysis, and of {recipe.model!r} there is but the config; give a model with "
            "weights, or the layers by number"
        )


def _file(depends_on: Mapping[str, Any]) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return root / "surgery" / "analyses" / f"{key}.json"


def _read(file: Path) -> dict[str, Any] | None:
    """An analysis that was kept; None if there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found
