"""Latents in memory as training data: the batches of a stage, and one fixed batch held out to judge it by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgery.errors import RecipeError
from surgery.progress import Progress
from surgery.recording.parameters import first_floating
from surgery.training.checkpoint import digest
from surgery.training.data import LatentDataset
from surgery.training.diffusion import NoisedBatch, noised_batch, null_label
from surgery.training.scheduler import Scheduler
from surgery.training.source import PLAIN, Noising, parted


@dataclass(frozen=True)
class LatentData:
    """Latents with their conditions, noised by a scheduler; see `surgery.training.source.TrainingData`."""

    dataset: LatentDataset
    scheduler: Scheduler

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def identity(self) -> dict[str, str]:
        """Digests of latents and conditions, and of the scheduler's class and settings."""
        settings = {key: value for key, value in self.scheduler.config.items() if not key.startswith("_")}
        return {
            "data": digest({**self.dataset.conditions, "latents": self.dataset.latents}),
            "scheduler": digest({}, f"{type(self.scheduler).__name__} {sorted(settings.items())}"),
        }

    def stored(self, folder: Path, progress: Progress) -> LatentData:  # noqa: ARG002
        """The data as they are: they are in memory already."""
        return self

    def example(self, seed: int, device: str, samples: int = 1) -> dict[str, Any]:
        """Keywords of the model's forward for so many samples."""
        return {**noised_batch(self.dataset, self.scheduler, 0, samples, seed, device=device).inputs}

    def source(self, model: nn.Module, *, stage: str, batch_size: int, seed: int, noising: Noising = PLAIN) -> Batches:
        """Its batches for `model`.

        Raises:
            RecipeError: latents are noised in one way only.
        """
        if noising != PLAIN:
            raise RecipeError("latents in memory are noised uniformly, a batch at a time; leave out times and weights")
        return Batches(self, model, stage=stage, batch_size=batch_size, seed=seed)


class Batches:
    """Noised batches for a model, on its device, in its dtype; each depends on (seed, stage, step) alone.

    Targets are float32 at least, so that a loss can be taken without losing precision. A seeded choice of at most
    `batch_size` samples is never trained on, see `surgery.training.source.parted`.
    """

    def __init__(self, data: LatentData, model: nn.Module, *, stage: str, batch_size: int, seed: int) -> None:
        held, rest = parted(len(data), batch_size, seed)
        self._held = data.dataset.select(held) if len(held) else None
        self._training = data.dataset.select(rest)
        self._scheduler, self._stage, self._batch_size, self._seed = data.scheduler, stage, batch_size, seed
        self._null_label = null_label(model)
        first = first_floating(model)
        assert first is not None, "a model without weights is not trained"
        self._device, self._dtype = first.device, first.dtype

    def training(self, step: int) -> tuple[NoisedBatch, ...]:
        """The batch of a step, counted from 0: one forward."""
        return (self._noised(self._training, step, self._batch_size, self._stage),)

    def held_out(self, draw: int = 0) -> tuple[NoisedBatch, ...]:
        """The held-out samples, with noise that depends on `draw` alone; none in a data set of under 20 samples."""
        if self._held is None:
            return ()
        return (self._noised(self._held, draw, len(self._held), f"{self._stage} held out"),)

    def _noised(self, dataset: LatentDataset, step: int, size: int, stage: str) -> NoisedBatch:
        batch = noised_batch(
            dataset,
            self._scheduler,
            step,
            size,
            self._seed,
            stage=stage,
            null_label=self._null_label,
            device=self._device,
        )
        inputs = {k: v.to(self._dtype) if v.is_floating_point() else v for k, v in batch.inputs.items()}
        return NoisedBatch(inputs, batch.target.to(torch.promote_types(self._dtype, torch.float32)))
