"""What one does with a finished run: draw samples of its student, and time it against its teacher."""

from __future__ import annotations

from contextlib import AbstractContextManager, chdir, nullcontext
from pathlib import Path
from typing import Any

import surgery.artifact
from surgery.data import Data
from surgery.errors import RecipeError
from surgery.evaluate.grid import grid_png
from surgery.evaluate.metrics.latency import latencies_ms
from surgery.evaluate.sampling import Sampling
from surgery.files import require_file, write_atomically
from surgery.progress import Progress
from surgery.run.folder import RunFolder
from surgery.run.subject import Subject, load_subject

MOST = 100_000
"""Samples of a grid."""
BATCHES = (1, 8)
"""Sizes at which latency is measured, as far as the pipeline joins samples."""


def sample_run(run: Path, out: Path, count: int, seed: int, progress: Progress) -> None:
    """Draw a grid of samples of the student.

    Args:
        run: the folder of a finished run.
        out: the PNG file to write.
        count: number of samples.
        seed: of the noise.
        progress: shows how far the sampling has come.

    Raises:
        RecipeError: the number of samples is none, or too large; or `out` cannot be written, or is called otherwise.
        ArtifactError: the run is not finished, or a file of it is missing or damaged.
    """
    if not 1 <= count <= MOST:
        raise RecipeError(f"--count {count}: name a number from 1 to {MOST}")
    require_file(out, ".png")
    folder, out = RunFolder(run.resolve()), out.resolve()
    recipe, student = folder.recipe(), surgery.artifact.load(folder.finished_model())
    with _where_it_ran(folder), progress.stage("sample", total=count) as bar:
        drawn = subject_of(folder, recipe).sampler.draw(student, count, _sampling_of(recipe), seed, bar.advance)
    if not drawn.pictures:
        raise RecipeError(f"{run}: the pipeline gives no pictures, of which a grid could be made")
    write_atomically(out, grid_png(drawn.pictures))


def bench_run(run: Path, *, compiled: bool = False) -> dict[str, dict[str, float]]:
    """Latency of teacher and student of a run by batch size, in milliseconds, measured in turns in one process.

    Args:
        run: the folder of a finished run.
        compiled: whether both are measured by `torch.compile` as well.

    Raises:
        ArtifactError: the run is not finished, or a file of it is missing or damaged.
        SurgeryError: a model cannot be compiled.
    """
    folder = RunFolder(run.resolve())
    recipe, model = folder.recipe(), folder.finished_model()
    with _where_it_ran(folder):
        subject = subject_of(folder, recipe)
    models = [subject.teacher.model, surgery.artifact.load(model)]
    found: dict[str, dict[str, float]] = {}
    for batch in BATCHES if subject.data.joins_samples else BATCHES[:1]:
        inputs = subject.data.example(recipe["seed"], "cpu", batch)
        times = dict(zip(("teacher_ms", "student_ms"), latencies_ms(models, inputs), strict=True))
        if compiled:
            faster = latencies_ms(models, inputs, compiled=True)
            times |= zip(("teacher_compiled_ms", "student_compiled_ms"), faster, strict=True)
        found[str(batch)] = times
    return found


def subject_of(folder: RunFolder, recipe: dict[str, Any]) -> Subject:
    """What the recipe of a run is about; its data are those that the run has made."""
    data = recipe["data"]
    data = Data.from_data(data) if isinstance(data, dict) else data
    dtype = recipe.get("dtype", "float32")
    return load_subject(recipe["model"], data, recipe["seed"], made=folder.data, dtype=dtype)


def _where_it_ran(folder: RunFolder) -> AbstractContextManager[None]:
    """Lets the recipe's relative paths start where they did; where that folder is not known, or gone, from here."""
    places = [origin.folder for origin in folder.origins()[-1:] if Path(origin.folder or "?").is_dir()]
    return chdir(places[0]) if places else nullcontext()


def _sampling_of(recipe: dict[str, Any]) -> Sampling:
    """How the recipe draws samples; read without its metrics, whose code may not be at hand."""
    settings = recipe["evaluate"] or {}
    return Sampling(**{name: settings[name] for name in Sampling.model_fields if name in settings})
