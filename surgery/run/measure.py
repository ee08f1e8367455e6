"""Judging the models of a run, each by the same protocol and the same noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from PIL import Image
from torch import nn

from surgery.errors import SurgeryError
from surgery.evaluate.context import Context
from surgery.evaluate.grid import grid_png
from surgery.evaluate.metrics import COSTS, Metric
from surgery.evaluate.results import Column, StageMetrics, StageName
from surgery.evaluate.sampling import Drawn, Sampling
from surgery.progress import Progress
from surgery.run.prepare import Opened

SHOWN_MEANWHILE = 8
"""Samples of each model in a grid that is drawn while a student is trained."""


class Measuring:
    """Measures models of one run. The teacher's samples are kept, so that they are drawn once."""

    def __init__(self, opened: Opened, progress: Progress) -> None:
        self._recipe, self._teacher, self._data = opened.recipe, opened.teacher, opened.data
        self._sampling: Sampling = opened.recipe.evaluate or Sampling()
        self._count = opened.samples
        self._progress = progress
        # A metric of the recipe that is also a cost takes its place.
        chosen = {metric.name for metric in opened.metrics}
        self._metrics = (*opened.metrics, *(cost for cost in COSTS if cost.name not in chosen))
        self._sampler = opened.sampler
        self._teachers: Drawn | None = None
        self._few: Sequence[Image.Image] | None = None

    @property
    def columns(self) -> dict[str, Column]:
        """How each metric is shown, by name."""
        return {metric.name: metric.column for metric in self._metrics}

    def context(self, stage: StageName, model: nn.Module) -> Context:
        """What metrics may look at for the model of a stage."""
        recipe = self._recipe
        device = str(next(model.parameters()).device)
        return Context(
            teacher=self._teacher.model,
            model=model,
            prompts=self._sampler.prompts(self._count),
            data=self._data,
            held_out=min(recipe.distil.batch_size, recipe.finetune.batch_size),
            inputs=self._data.example(recipe.seed, device),
            seed=recipe.seed,
            draw=partial(self._draw, stage),
        )

    def measure(self, stage: StageName, context: Context, seconds: float) -> StageMetrics:
        """The metrics of the model in `context`, whose stage took so many seconds.

        Raises:
            SurgeryError: a metric gives no number, or cannot judge what the model gives.
        """
        values = {metric.name: _value(metric, context) for metric in self._metrics}
        return StageMetrics.model_validate({"stage": stage, "seconds": seconds, **values})

    def progress_grid(self, model: nn.Module) -> bytes | None:
        """A few samples of the teacher over those of `model` from the same noise, as a PNG; None if nothing is to be
        seen."""
        if self._few is None:
            self._few = self._pictures(self._teacher.model)
        shown = self._pictures(model)
        return grid_png([*self._few, *shown], columns=len(shown)) if shown else None

    def _pictures(self, model: nn.Module) -> Sequence[Image.Image]:
        count = min(self._count, SHOWN_MEANWHILE)
        return self._sampler.draw(model, count, self._sampling, self._recipe.seed, _ignored).pictures

    def _draw(self, stage: StageName, model: nn.Module) -> Drawn:
        """Samples of a model by the recipe's protocol; those of the teacher are kept, but for its pictures."""
        if model is self._teacher.model and self._teachers is not None:
            return self._teachers
        name = "teacher" if model is self._teacher.model else stage
        with self._progress.stage(f"evaluate {name}", total=self._count) as bar:
            drawn = self._sampler.draw(model, self._count, self._sampling, self._recipe.seed, bar.advance)
        if model is self._teacher.model:
            self._teachers = Drawn(drawn.latents, ())
        return drawn


def _value(metric: Metric, context: Context) -> int | float | None:
    """The figure of a metric, which a user may have written; None if it is not finite, which JSON has no word for."""
    value = metric.compute(context)
    if not isinstance(value, int | float):
        raise SurgeryError(f"metric {metric.name!r} gives a {type(value).__name__}: let its compute return a number")
    return value if math.isfinite(value) else None


def _ignored(_: int) -> None:
    """The progress of samples that have no bar of their own."""
