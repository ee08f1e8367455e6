"""What one does with a finished run: draw samples of its student, and time it against its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import surgery.artifact
from surgery.data import Data
from surgery.errors import RecipeError
from surgery.evaluate.metrics.latency import latency_ms
from surgery.evaluate.sample import grid_png
from surgery.evaluate.sampling import Sampling
from surgery.files import write_atomically
from surgery.models.inputs import example_inputs
from surgery.progress import Progress
from surgery.run.folder import RECIPE, RunFolder
from surgery.run.subject import Subject, load_subject

MOST = 100_000
"""Samples of a grid."""


def sample_run(run: Path, out: Path, count: int, seed: int, progress: Progress) -> None:
    """Draw a grid of samples of the student.

    Args:
        run: the folder of a finished run.
        out: the PNG file to write.
        count: number of samples.
        seed: of the noise.
        progress: shows how far the sampling has come.

    Raises:
        RecipeError: the number of samples is none, or too large.
        ArtifactError: a file of the run is missing or damaged.
    """
    if not 1 <= count <= MOST:
        raise RecipeError(f"--count {count}: name a number from 1 to {MOST}")
    recipe = _recipe_of(run)
    student = surgery.artifact.load(RunFolder(run).model)
    settings = _sampling_of(recipe).model_copy(update={"samples": count})
    with progress.stage("sample", total=count) as bar:
        drawn = _subject_of(recipe).sampler.draw(student, settings, seed, bar.advance)
    write_atomically(out, grid_png(drawn.pictures))


def bench_run(run: Path, batches: tuple[int, ...] = (1, 8, 64)) -> dict[str, dict[str, float]]:
    """Latency of teacher and student of a run folder by batch size, in milliseconds, in one process.

    Raises:
        ArtifactError: a file of the run is missing or damaged.
    """
    teacher = _subject_of(_recipe_of(run)).teacher.model
    models = {"teacher_ms": teacher, "student_ms": surgery.artifact.load(RunFolder(run).model)}
    return {
        str(batch): {name: latency_ms(model, example_inputs(model, batch)) for name, model in models.items()}
        for batch in batches
    }


def _recipe_of(run: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = RunFolder(run).read_json(RECIPE)
    return recipe


def _subject_of(recipe: dict[str, Any]) -> Subject:
    data = recipe["data"]
    return load_subject(recipe["model"], Data.from_data(data), recipe["seed"], dtype=recipe.get("dtype", "float32"))


def _sampling_of(recipe: dict[str, Any]) -> Sampling:
    """How the recipe draws samples; read without its metrics, whose code may not be at hand."""
    settings = recipe["evaluate"] or {}
    return Sampling(**{name: settings[name] for name in Sampling.model_fields if name in settings})
