"""What one does with a finished run: draw samples of its student, and time it against its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import surgery.artifact
from surgery.errors import RecipeError
from surgery.evaluate.metrics.latency import latency_ms
from surgery.evaluate.sample import balanced_labels, grid_png, sample
from surgery.evaluate.sampling import Sampling
from surgery.files import write_atomically
from surgery.models import load_pretrained
from surgery.models.inputs import example_inputs
from surgery.progress import Progress
from surgery.run.folder import RECIPE, RunFolder

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
    scheduler = load_pretrained(recipe["model"]).scheduler
    settings = _sampling_of(recipe)
    labels = balanced_labels(count)
    with progress.stage("sample", total=count) as bar:
        images = sample(
            student, scheduler, labels, seed=seed, steps=settings.steps, guidance=settings.guidance,
            advance=bar.advance,
        )  # fmt: skip
    write_atomically(out, grid_png(images))


def bench_run(run: Path, batches: tuple[int, ...] = (1, 8, 64)) -> dict[str, dict[str, float]]:
    """Latency of teacher and student of a run folder by batch size, in milliseconds, in one process.

    Raises:
        ArtifactError: a file of the run is missing or damaged.
    """
    teacher = load_pretrained(_recipe_of(run)["model"]).model
    models = {"teacher_ms": teacher, "student_ms": surgery.artifact.load(RunFolder(run).model)}
    return {
        str(batch): {name: latency_ms(model, example_inputs(model, batch)) for name, model in models.items()}
        for batch in batches
    }


def _recipe_of(run: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = RunFolder(run).read_json(RECIPE)
    return recipe


def _sampling_of(recipe: dict[str, Any]) -> Sampling:
    """How the recipe draws samples; read without its metrics, whose code may not be at hand."""
    settings = recipe["evaluate"] or {}
    return Sampling(**{name: settings[name] for name in Sampling.model_fields if name in settings})
