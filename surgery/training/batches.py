"""The batches of a stage: those it trains on, and one fixed batch held out to judge it by."""

from __future__ import annotations

import torch
from torch import nn

from surgery.recording.parameters import first_floating
from surgery.store.order import seeded
from surgery.training.data import LatentDataset
from surgery.training.diffusion import NoisedBatch, noised_batch, null_label
from surgery.training.scheduler import Scheduler

HELD_OUT_SHARE = 20
"""At most one sample in so many is held out."""


class Batches:
    """Noised batches for a model, on its device, in its dtype; each depends on (seed, stage, step) alone.

    Targets are float32 at least, so that a loss can be taken without losing precision. A seeded choice of at most
    `batch_size` samples, one in `HELD_OUT_SHARE` at most, is never trained on; a smaller choice is part of a larger one.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        scheduler: Scheduler,
        model: nn.Module,
        *,
        stage: str,
        batch_size: int,
        seed: int,
    ) -> None:
        order = torch.randperm(len(dataset), generator=seeded(seed, "held out"))
        size = min(batch_size, len(dataset) // HELD_OUT_SHARE)
        self._held = dataset.select(order[:size]) if size else None
        self._training = dataset.select(order[size:]) if size else dataset
        self._scheduler, self._stage, self._batch_size, self._seed = scheduler, stage, batch_size, seed
        self._null_label = null_label(model)
        first = first_floating(model)
        assert first is not None, "a model without weights is not trained"
        self._device, self._dtype = first.device, first.dtype

    def training(self, step: int) -> NoisedBatch:
        """The batch of a step, counted from 0."""
        return self._noised(self._training, step, self._batch_size, self._stage)

    def held_out(self, draw: int = 0) -> NoisedBatch | None:
        """The held-out samples, with noise that depends on `draw` alone; None in a data set of under 20 samples."""
        if self._held is None:
            return None
        return self._noised(self._held, draw, len(self._held), f"{self._stage} held out")

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
