"""The stages of a run: prepare (load, trace, plan), rewrite and initialise, distil, finetune, evaluate, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import surgery.artifact
from surgery.evaluate.grid import grid_png
from surgery.evaluate.results import Metrics, StageName
from surgery.graph.show.draw import draw_blocks
from surgery.parallel.group import by_first, is_first
from surgery.progress import Progress, SilentProgress
from surgery.recipe import Recipe, load_recipe
from surgery.recipe_writer import written
from surgery.rewriting.commit import commit
from surgery.rewriting.edit import new_paths
from surgery.run.checks import check_run, identity_of, require_divisible, require_outputs
from surgery.run.folder import ANALYSIS, LIVE_LOSSES, LOSSES, SOURCE, RunFolder
from surgery.run.lock import locked
from surgery.run.loggers import logger_of, require_logger
from surgery.run.loggers.base import Logger
from surgery.run.loggers.lines import Lines
from surgery.run.measure import Measuring
from surgery.run.origin import origin_of
from surgery.run.prepare import Prepared, prepare
from surgery.run.report import report_of
from surgery.sensitivity import from_library
from surgery.training.distil import Site, distil, sites_of, trainable
from surgery.training.finetune import finetune, require_learnable
from surgery.training.fit import fit, may_be_fitted
from surgery.training.imitate import imitable
from surgery.training.record import LossRecord
from surgery.training.sharding import divide, never_trained

SHOWN = 100
"""Samples in a grid."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where everything is.
        metrics: what was measured.
        student: the model after all stages.
    """

    folder: Path
    metrics: Metrics
    student: nn.Module


def apply(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    name: str | None = None,
    log: str | None = None,
    shard: bool = False,
) -> Run:
    """Run `recipe` and leave everything in the folder `out`.

    Args:
        recipe: a recipe, or the path of a Python file that defines one.
        out: a folder that does not exist or is empty; with `resume`, that of an interrupted run of the same recipe.
        resume: continue where an interrupted run stopped; the weights come out the same, bit for bit.
        device: where to train, e.g. "cuda".
        progress: shows how far the run has come; silent by default.
        name: what to call the recipe in metrics.json; by default its path.
        log: where losses and metrics go too, besides the folder, see `surgery.run.loggers`.
        shard: divide the weights of teacher and student among the processes that share the run.

    Returns:
        the run, once all of it is written.

    Raises:
        SurgeryError: of the kind that fits. What was written up to then is whole, and can be resumed.
    """
    require_logger(log)
    name = name or (str(recipe) if not isinstance(recipe, Recipe) else "recipe")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if shard:
        require_divisible(recipe)
    plain = recipe.model_dump(mode="json")
    require_outputs(recipe, out, resume=resume)
    prepared = prepare(recipe, device, RunFolder(out).data, progress, divided=shard)
    check_run(prepared)
    with _clock() as seconds:
        student = commit(prepared.graph, prepared.plan.edits, recipe.seed, prepared.recordings, shared=True)
    if recipe.finetune.steps:
        require_learnable(student, new_paths(prepared.plan.edits), recipe.finetune)
        recipe.finetune.parts.require(imitable(prepared.graph, student))
    with locked(out):
        identity = identity_of(prepared, prepared.plan.model_dump_json())
        folder = RunFolder.open(out, plain, resume=resume, identity=identity)
        by_first(partial(folder.add_origin, origin_of(device)))
        with _logging(log, folder, plain) as loggers:
            runner = _Runner(prepared, folder, name, progress or SilentProgress(), loggers)  # makes data
            inputs = prepared.data.example(recipe.seed, device)
            saved = student
            if shard:
                frozen = never_trained(student, prepared.teacher.model, prepared.plan.edits, recipe.finetune)
                saved = divide(prepared.graph, prepared.plan.edits, student, inputs, device, frozen)
            return runner.run(student, seconds(), saved)


@contextmanager
def _logging(log: str | None, folder: RunFolder, recipe: dict[str, Any]) -> Iterator[Sequence[Logger]]:
    """The loggers of a run, of the first process alone; what is logged in the folder goes when losses.json is there."""
    if not is_first():
        yield ()
        return
    with ExitStack() as stack:
        opened = (Lines(folder.path / LIVE_LOSSES), *logger_of(log, folder.path, recipe))
        yield [stack.enter_context(closing(each)) for each in opened]
    folder.remove(LIVE_LOSSES)


class _Runner:
    def __init__(
        self, prepared: Prepared, folder: RunFolder, name: str, progress: Progress, loggers: Sequence[Logger]
    ) -> None:
        self._recipe, self._teacher = prepared.recipe, prepared.teacher
        self._graph, self._plan = prepared.graph, prepared.plan
        self._folder, self._name, self._progress = folder, name, progress
        self._data = prepared.data.stored(folder.data, progress)
        self._measuring = Measuring(replace(prepared, data=self._data), progress)
        self._stages = folder.stages()
        self._loggers = loggers

    def run(self, student: nn.Module, seconds: float, saved: nn.Module) -> Run:
        """Go through the stages; what an earlier process has finished is read back instead.

        Args:
            student: rewritten, and changed in place.
            seconds: that this took.
            saved: what takes its weights to be saved: itself, or its like without weights where these are divided.
        """
        self._folder.write(SOURCE, written(self._recipe).encode("utf-8", "replace"))
        self._folder.write_json("plan.json", self._plan.model_dump(mode="json"))
        edits = {e.path: e.label for e in self._plan.edits}
        if figures := self._graph.figures:
            layers = [{"layer": n, "path": path, **figures.get(path, {})} for path, n in self._graph.layers.items()]
            self._folder.write_json(ANALYSIS, {"layers": layers})
        self._folder.write("graph.svg", draw_blocks(self._graph, edits).encode())
        self._measure("teacher", self._teacher.model, 0.0)
        self._measure("rewritten", student, seconds + self._fit(student))
        losses = [*self._distil(student), *self._finetune(student)]
        self._folder.write_json(LOSSES, [asdict(record) for record in losses])
        if saved is student:
            by_first(partial(surgery.artifact.save, student, self._folder.model))
        else:
            saved.load_state_dict(student.state_dict(), assign=True)
            surgery.artifact.save(saved, self._folder.model)
        by_first(self._finish)
        return Run(self._folder.path, self._metrics, student)

    def _finish(self) -> None:
        self._teacher.scheduler.save_pretrained(self._folder.model)
        self._folder.write("report.html", report_of(self._folder).encode())

    def _fit(self, student: nn.Module) -> float:
        """What is asked to start fitted is; the seconds that this took. It is done again when a run is resumed early."""
        teacher, size, seed = self._teacher.model, self._recipe.distil.batch_size, self._recipe.seed
        with _clock() as seconds:
            sites = sites_of(self._plan.edits, teacher, student)
            if not may_be_fitted(student, sites) <= self._overwritten(student, sites):
                fit(teacher, student, sites, self._data, batch_size=size, seed=seed, progress=self._progress)
        return seconds()

    def _overwritten(self, student: nn.Module, sites: Sequence[Site]) -> set[str]:
        """The weights that checkpoints give other values before anything is made of those that they have."""
        distil, stored = self._recipe.distil, self._folder.checkpoints
        if distil.library is not None or not self._is_measured("rewritten"):  # a library may ask for the fitted ones
            return set()
        begun = by_first(lambda: [stage for stage in ("distil", "finetune") if stored.paths(stage)])
        learnt = trainable(student, [each for site in sites for each in site.lesson.modules])
        found = {*learnt} if "distil" in begun else set()
        if "finetune" in begun and self._is_measured("distilled") and (found or not distil.steps):
            found |= require_learnable(student, new_paths(self._plan.edits), self._recipe.finetune)
        return found

    def _distil(self, student: nn.Module) -> list[LossRecord]:
        """Stage 1, which changes the student in place; nothing if no edit has weights to learn."""
        sites = sites_of(self._plan.edits, self._teacher.model, student)
        if not sites:
            return []
        config, seed, progress = self._recipe.distil, self._recipe.seed, self._progress
        if not config.steps:
            return self._left_out("distilled")
        with _clock() as seconds:
            if config.library is not None:
                edits = self._plan.edits
                losses = from_library(self._graph, student, edits, self._data, config, seed=seed, progress=progress)
                for record in losses:
                    self._log(record)
            else:
                losses = distil(
                    self._teacher.model,
                    student,
                    sites,
                    self._data,
                    config,
                    seed=seed,
                    checkpoints=self._folder.checkpoints,
                    progress=progress,
                    show=partial(self._show, "distil", student),
                    log=self._log,
                )
        self._measure("distilled", student, seconds())
        return losses

    def _finetune(self, student: nn.Module) -> list[LossRecord]:
        """Stage 2, which changes the student in place."""
        if not self._recipe.finetune.steps:
            return self._left_out("finetuned")
        with _clock() as seconds:
            losses = finetune(
                self._teacher.model,
                student,
                new_paths(self._plan.edits),
                self._data,
                self._recipe.finetune,
                seed=self._recipe.seed,
                checkpoints=self._folder.checkpoints,
                progress=self._progress,
                show=partial(self._show, "finetune", student),
                log=self._log,
            )
        self._measure("finetuned", student, seconds())
        return losses

    def _left_out(self, stage: StageName) -> list[LossRecord]:
        """A stage of no steps: model, figures and samples are those of the stage before."""
        if stage not in self._stages:
            before = list(self._stages.values())[-1]
            grid = self._folder.sample(before.stage)
            if grid.exists():
                self._folder.write(f"samples/{stage}.png", grid.read_bytes())
            self._stages[stage] = before.model_copy(update={"stage": stage, "seconds": 0.0})
            self._folder.write_json("metrics.json", self._metrics.model_dump(mode="json"))
        return []

    def _log(self, record: LossRecord) -> None:
        for logger in self._loggers:
            logger.loss(record)

    def _show(self, stage: str, model: nn.Module, done: int) -> None:
        """Draw samples of a model that is being trained, unless an earlier process has."""
        grid = self._folder.sample(f"{stage}-{done:06d}")
        if not by_first(grid.exists) and (drawn := self._measuring.progress_grid(model)):
            self._folder.write(f"samples/{grid.name}", drawn)

    def _measure(self, stage: StageName, model: nn.Module, seconds: float) -> None:
        """Measure a model and draw its samples, unless an earlier process has; a recipe may ask for no samples."""
        if self._is_measured(stage):
            return
        draws = self._recipe.evaluate is not None
        context = self._measuring.context(stage, model)
        if draws and (pictures := context.pictures):
            self._folder.write(f"samples/{stage}.png", grid_png(pictures[:SHOWN]))
        self._stages[stage] = self._measuring.measure(stage, context, seconds)
        self._folder.write_json("metrics.json", self._metrics.model_dump(mode="json"))
        for logger in self._loggers:
            logger.stage(self._stages[stage])

    def _is_measured(self, stage: StageName) -> bool:
        """Whether an earlier process has measured a stage and drawn its samples, if any are asked for."""
        grid = self._folder.sample(stage)
        return stage in self._stages and (self._recipe.evaluate is None or by_first(grid.exists))

    @property
    def _metrics(self) -> Metrics:
        return Metrics(
            stages=tuple(self._stages.values()),
            seed=self._recipe.seed,
            recipe=self._name,
            columns=self._measuring.columns,
        )


@contextmanager
def _clock() -> Iterator[Callable[[], float]]:
    """Gives a function that says, in seconds, how long the block took or has taken so far."""
    start = time.perf_counter()
    end: list[float] = []
    yield lambda: (end[0] if end else time.perf_counter()) - start
    end.append(time.perf_counter())
