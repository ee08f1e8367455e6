"""The stages of a run: load, trace, plan, rewrite, initialise, distil, finetune, evaluate, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import surgery.artifact
from surgery.device import require_device
from surgery.digits.judge import Judge, Quality, judge_for
from surgery.errors import RecipeError
from surgery.evaluate.latency import latency_ms
from surgery.evaluate.metrics import Metrics, StageMetrics, StageName
from surgery.evaluate.sample import balanced_labels, grid_png, sample
from surgery.files import write_atomically
from surgery.graph import ModelGraph
from surgery.graph.show.draw import draw_blocks
from surgery.models import Pretrained, load_pretrained, load_skeleton
from surgery.models.inputs import example_inputs
from surgery.progress import Progress, SilentProgress
from surgery.recipe import Recipe, load_recipe
from surgery.rewriting import Plan, plan
from surgery.rewriting.commit import commit, require_no_conflicts
from surgery.run.checks import check_run, identity_of
from surgery.run.folder import RECIPE, RunFolder, locked
from surgery.run.report import report_of
from surgery.tracing import trace
from surgery.training.data import LatentDataset, load_data
from surgery.training.diffusion import noised_batch
from surgery.training.distil import distil, distilled
from surgery.training.finetune import finetune
from surgery.training.record import LossRecord

SHOWN = 100
"""Samples in a grid."""
MOST = 100_000
"""Samples that `surgery sample` draws at most into one picture."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, what was measured, and the student."""

    folder: Path
    metrics: Metrics
    student: nn.Module


@dataclass(frozen=True)
class Prepared:
    """All that a run needs, and all that can be wrong with a recipe found out, before anything is written."""

    recipe: Recipe
    teacher: Pretrained
    data: LatentDataset
    graph: ModelGraph
    plan: Plan


def prepare(recipe: Recipe, device: str = "cpu") -> Prepared:
    """Load the model and the data of `recipe`, trace the model and plan the rules.

    Raises:
        SurgeryError: of the kind that fits; nothing has been written then.
    """
    require_device(device)
    teacher = load_pretrained(recipe.model, device)
    data = load_data(recipe.data)
    inputs = noised_batch(data, teacher.scheduler, 0, 1, recipe.seed, device=device).inputs
    graph = trace(teacher.model, inputs)
    planned = plan(graph, recipe.rules)
    require_no_conflicts(planned)
    return Prepared(recipe, teacher, data, graph, planned)


def plan_recipe(recipe: Recipe) -> Plan:
    """What the rules of `recipe` do to its model, at the model's own sizes. See `load_skeleton` on weights.

    Raises:
        SurgeryError: of the kind that fits.
    """
    model = load_skeleton(recipe.model)
    return plan(model, recipe.rules, example_inputs(model))


def apply(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    name: str | None = None,
) -> Run:
    """Run `recipe` and leave everything in the folder `out`.

    Args:
        recipe: a recipe, or the path of a Python file that defines one.
        out: a folder that does not exist or is empty; with `resume`, that of an interrupted run of the same recipe.
        resume: continue where an interrupted run stopped; the weights come out the same, bit for bit.
        device: where to train, e.g. "cuda".
        progress: shows how far the run has come; silent by default.
        name: what to call the recipe in metrics.json; by default its path.

    Raises:
        SurgeryError: of the kind that fits. What was written up to then is whole, and can be resumed.
    """
    name = name or (str(recipe) if not isinstance(recipe, Recipe) else "recipe")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    prepared, judge = prepare(recipe, device), judge_for(recipe.data)
    teacher = prepared.teacher.model
    check_run(recipe, teacher, prepared.plan, prepared.data, judge.features.shape[1])
    with locked(out):
        json = recipe.model_dump(mode="json")
        folder = RunFolder.open(
            out, json, resume=resume, identity=identity_of(recipe, prepared.plan, teacher, prepared.data)
        )
        return _Runner(prepared, judge, folder, name, progress or SilentProgress()).run()


class _Runner:
    def __init__(self, prepared: Prepared, judge: Judge, folder: RunFolder, name: str, progress: Progress) -> None:
        self._recipe, self._teacher, self._data = prepared.recipe, prepared.teacher, prepared.data
        self._graph, self._plan = prepared.graph, prepared.plan
        self._folder, self._name, self._progress = folder, name, progress
        self._stages = folder.stages()
        self._judge = judge

    def run(self) -> Run:
        """Go through the stages; what an earlier process has finished is read back instead."""
        self._folder.write_json("plan.json", self._plan.model_dump(mode="json"))
        edits = {e.path: e.label for e in self._plan.edits}
        self._folder.write("graph.svg", draw_blocks(self._graph, edits).encode())
        self._measure("teacher", self._teacher.model, 0.0)
        with _clock() as seconds:
            student = commit(self._graph, self._plan.edits, self._recipe.seed)
        self._measure("rewritten", student, seconds())
        losses = self._train(student)
        self._folder.write_json("losses.json", [asdict(record) for record in losses])
        surgery.artifact.save(student, self._folder.model)
        self._teacher.scheduler.save_pretrained(self._folder.model)
        self._folder.write("report.html", report_of(self._folder).encode())
        return Run(self._folder.path, self._metrics, student)

    def _train(self, student: nn.Module) -> list[LossRecord]:
        """Both stages of training; the student is changed in place."""
        common: dict[str, Any] = {
            "seed": self._recipe.seed,
            "checkpoints": self._folder.checkpoints,
            "progress": self._progress,
        }
        models = self._teacher.model, student
        data = self._data, self._teacher.scheduler
        sites, regions = distilled(self._plan.edits)
        losses: list[LossRecord] = []
        if sites or regions:
            with _clock() as seconds:
                losses += distil(*models, sites, *data, self._recipe.distil, regions=regions, **common)
            self._measure("distilled", student, seconds())
        new = [*sites, *(path for edit in self._plan.edits for path in edit.modules.values())]
        with _clock() as seconds:
            losses += finetune(*models, new, *data, self._recipe.finetune, **common)
        self._measure("finetuned", student, seconds())
        return losses

    def _measure(self, stage: StageName, model: nn.Module, seconds: float) -> None:
        """Sample from `model` and measure it, unless an earlier process has."""
        if stage in self._stages and self._folder.sample(stage).exists():
            return
        quality = self._quality(stage, model)
        inputs = noised_batch(
            self._data, self._teacher.scheduler, 0, 1, self._recipe.seed, device=_device(model)
        ).inputs
        self._stages[stage] = StageMetrics(
            stage=stage,
            frechet=quality.frechet,
            accuracy=quality.class_accuracy,
            params=sum(p.numel() for p in model.parameters()),
            flops=trace(model, inputs).flops,
            latency_ms=latency_ms(model, inputs),
            seconds=seconds,
        )
        self._folder.write_json("metrics.json", self._metrics.model_dump(mode="json"))

    def _quality(self, stage: str, model: nn.Module) -> Quality:
        settings = self._recipe.evaluate
        labels = balanced_labels(settings.samples)
        with self._progress.stage(f"evaluate {stage}", total=settings.samples) as bar:
            images = sample(
                model,
                self._teacher.scheduler,
                labels,
                seed=self._recipe.seed,
                steps=settings.steps,
                guidance=settings.guidance,
                batch_size=settings.batch_size,
                advance=bar.advance,
            )
        self._folder.write(f"samples/{stage}.png", grid_png(images[:SHOWN]))
        return self._judge.judge(images, labels)

    @property
    def _metrics(self) -> Metrics:
        return Metrics(stages=tuple(self._stages.values()), seed=self._recipe.seed, recipe=self._name)


def sample_run(run: Path, out: Path, count: int, seed: int, progress: Progress) -> None:
    """Write a grid of `count` samples of the student in the run folder `run` to the PNG file `out`."""
    if not 1 <= count <= MOST:
        raise RecipeError(f"--count {count}: name a number from 1 to {MOST}")
    recipe = _recipe_of(run)
    student = surgery.artifact.load(RunFolder(run).model)
    scheduler = load_pretrained(recipe["model"]).scheduler
    settings = recipe["evaluate"]
    labels = balanced_labels(count)
    with progress.stage("sample", total=count) as bar:
        images = sample(
            student, scheduler, labels, seed=seed, steps=settings["steps"], guidance=settings["guidance"],
            advance=bar.advance,
        )  # fmt: skip
    write_atomically(out, grid_png(images))


def bench_run(run: Path, batches: tuple[int, ...] = (1, 8, 64)) -> dict[str, dict[str, float]]:
    """Latency of teacher and student of the run folder `run` by batch size, in milliseconds, in one process."""
    teacher = load_pretrained(_recipe_of(run)["model"]).model
    models = {"teacher_ms": teacher, "student_ms": surgery.artifact.load(RunFolder(run).model)}
    return {
        str(batch): {name: latency_ms(model, example_inputs(model, batch)) for name, model in models.items()}
        for batch in batches
    }


def _recipe_of(run: Path) -> dict[str, Any]:
    folder = RunFolder(run)
    recipe: dict[str, Any] = folder.read_json(RECIPE)
    if not (isinstance(recipe.get("model"), str) and isinstance(recipe.get("evaluate"), dict)):
        raise folder.altered(RECIPE, "it is no recipe")
    return recipe


@contextmanager
def _clock() -> Iterator[Callable[[], float]]:
    """Gives a function that says, in seconds, how long the block took or has taken so far."""
    start = time.perf_counter()
    end: list[float] = []
    yield lambda: (end[0] if end else time.perf_counter()) - start
    end.append(time.perf_counter())


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
