"""Judging the models of a run, each by the same protocol and the same noise."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from surgery.errors import SurgeryError
from surgery.evaluate.context import Context
from surgery.evaluate.metrics import COSTS, Metric
from surgery.evaluate.results import Column, StageMetrics, StageName
from surgery.evaluate.sample import balanced_labels, sample
from surgery.evaluate.sampling import PROTOCOL, Sampling
from surgery.progress import Progress
from surgery.run.prepare import Prepared
from surgery.training.diffusion import noised_batch


class Measuring:
    """Measures models of one run. The teacher's samples are kept, so that they are drawn once."""

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        self._recipe, self._teacher, self._data = prepared.recipe, prepared.teacher, prepared.data
        self._sampling: Sampling = prepared.recipe.evaluate or PROTOCOL
        self._progress = progress
        # A metric of the recipe that is also a cost takes its place.
        chosen = {metric.name for metric in prepared.metrics}
        self._metrics = (*prepared.metrics, *(cost for cost in COSTS if cost.name not in chosen))
        self._teacher_samples: Tensor | None = None

    @property
    def columns(self) -> dict[str, Column]:
        """How each metric is shown, by name."""
        return {metric.name: metric.column for metric in self._metrics}

    def context(self, stage: StageName, model: nn.Module) -> Context:
        """What metrics may look at for the model of a stage."""
        recipe, scheduler = self._recipe, self._teacher.scheduler
        device = next(model.parameters()).device
        return Context(
            teacher=self._teacher.model,
            model=model,
            labels=balanced_labels(self._sampling.samples),
            data=self._data,
            held_out=min(recipe.distil.batch_size, recipe.finetune.batch_size),
            scheduler=scheduler,
            inputs=noised_batch(self._data, scheduler, 0, 1, recipe.seed, device=device).inputs,
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

    def _draw(self, stage: StageName, model: nn.Module) -> Tensor:
        """Samples of a model by the recipe's protocol; those of the teacher only once."""
        if model is not self._teacher.model:
            return self._samples(stage, model)
        if self._teacher_samples is None:
            self._teacher_samples = self._samples("teacher", model)
        return self._teacher_samples

    def _samples(self, stage: StageName, model: nn.Module) -> Tensor:
        settings, labels = self._sampling, balanced_labels(self._sampling.samples)
        with self._progress.stage(f"evaluate {stage}", total=settings.samples) as bar:
            return sample(
                model,
                self._teacher.scheduler,
                labels,
                seed=self._recipe.seed,
                steps=settings.steps,
                guidance=settings.guidance,
                batch_size=settings.batch_size,
                advance=bar.advance,
            )


def _value(metric: Metric, context: Context) -> int | float | None:
    """The figure of a metric, which a user may have written; None if it is not finite, which JSON has no word for."""
    value = metric.compute(context)
    if not isinstance(value, int | float):
        raise SurgeryError(f"metric {metric.name!r} gives a {type(value).__name__}: let its compute return a number")
    return value if math.isfinite(value) else None
