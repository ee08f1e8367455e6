"""Samples of a pipeline as training data: z_t and the conditions go into the model as the pipeline feeds them to it.

Shapes: B samples, ... the latents of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.pipelines.collate import collate
from surgery.pipelines.parts import Condition
from surgery.pipelines.process import Process, process_of
from surgery.pipelines.times import drawn_positions
from surgery.pipelines.tree import Arguments, moved
from surgery.pipelines.wiring import Wiring
from surgery.progress import Progress
from surgery.recording.parameters import first_floating
from surgery.store import Sample, Source, fill
from surgery.store.order import seeded
from surgery.training.data import batch_indices
from surgery.training.source import parted

CONDITION_DROP = 0.1
"""The share of samples that get the unconditional branch's condition, which keeps classifier-free guidance working (Ho &
Salimans 2022)."""


@dataclass(frozen=True)
class WiredData:
    """Samples, and how a pipeline feeds them to its model; see `surgery.training.source.TrainingData`.

    Attributes:
        wiring: of the pipeline, on the device to train on.
        samples: made when they are asked for, or from a store; their conditions are the arguments of each branch, see
            `Condition`.
        identity: digests of what the samples are made from, and of the scheduler.
    """

    wiring: Wiring
    samples: Source
    identity: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def process(self) -> Process:
        """q(z_t | z), and its target."""
        return process_of(self.wiring.schedule)

    @property
    def model(self) -> str:
        """Name of the pipeline's component that is trained: of several experts, the one for the noisiest positions."""
        return self.wiring.model_at(0, self.wiring.conditional)

    @cached_property
    def positions(self) -> Tensor:
        """The positions of the schedule at which that component is run, ascending."""
        branch = self.wiring.branches[self.wiring.conditional]
        return torch.tensor([position for position, name in enumerate(branch.models) if name == self.model])

    def stored(self, folder: Path, progress: Progress) -> WiredData:
        """The same data with all samples made and kept in `folder`, beside the wiring.

        Raises:
            ArtifactError, SurgeryError: see `surgery.store.fill`.
            WiringError: a condition cannot be written down.
        """
        self.wiring.save(folder / "wiring")
        return replace(self, samples=fill(folder / "samples", self.identity, self.samples, progress))

    def example(self, seed: int, device: str) -> Arguments:
        """Keywords of the model's forward for one sample, with the pipeline's own condition."""
        wiring = self.wiring
        noise = torch.randn(1, *wiring.shape, generator=seeded(seed, "example")).to(device)
        position = self.positions[len(self.positions) // 2 :][:1]
        return collate(wiring, noise, position, [wiring.conditions[wiring.conditional]])[0].arguments

    def source(self, model: nn.Module, *, stage: str, batch_size: int, seed: int) -> WiredBatches:
        """Its batches for `model`."""
        return WiredBatches(self, model, stage=stage, batch_size=batch_size, seed=seed)


class WiredBatches:
    """Noised batches for a model, each as few forwards as the pipeline's own batching allows.

    Times are drawn uniformly along the schedule, which is shifted as the scheduler shifts it.
    """

    def __init__(self, data: WiredData, model: nn.Module, *, stage: str, batch_size: int, seed: int) -> None:
        self._data, self._stage, self._batch_size, self._seed = data, stage, batch_size, seed
        self._held, self._training = parted(len(data), batch_size, seed)
        first = first_floating(model)
        assert first is not None, "a model without weights is not trained"
        self._device = first.device

    def training(self, step: int) -> Sequence[WiredForward]:
        """The batch of a step, counted from 0."""
        numbers = self._training[batch_indices(len(self._training), self._batch_size, step, self._seed)]
        return self._noised(numbers, seeded(self._seed, self._stage, step))

    def held_out(self, draw: int = 0) -> Sequence[WiredForward]:
        """The held-out samples, with noise and times that depend on `draw` alone; none of under 20 samples."""
        if not len(self._held):
            return ()
        return self._noised(self._held, seeded(self._seed, f"{self._stage} held out", draw))

    def _noised(self, numbers: Tensor, generator: torch.Generator) -> list[WiredForward]:
        data, samples = self._data, [self._data.samples[number] for number in numbers.tolist()]
        latents = torch.stack([sample.latents for sample in samples]).float()
        noise = torch.randn(latents.shape, generator=generator)
        drawn = drawn_positions("uniform", len(samples), len(data.positions), generator)
        positions = data.positions[drawn]
        dropped = torch.rand(len(samples), generator=generator) < CONDITION_DROP
        conditions = [self._condition(s, bool(drop)) for s, drop in zip(samples, dropped, strict=True)]
        noised = data.process.noised(latents, noise, positions).to(self._device)
        target = data.process.target(latents, noise, positions).to(self._device)
        batches = collate(data.wiring, noised, positions, conditions)
        return [
            WiredForward(b.arguments, len(b.rows) / len(samples), target[list(b.rows)], data.wiring) for b in batches
        ]

    def _condition(self, sample: Sample, dropped: bool) -> Condition:
        wiring = self._data.wiring
        branch = wiring.conditional if wiring.unconditional is None or not dropped else wiring.unconditional
        return Condition(branch, moved(sample.conditions[branch], self._device))


@dataclass(frozen=True)
class WiredForward:
    """One forward; see `surgery.training.source.Forward`.

    Attributes:
        inputs: the keywords.
        share: of the batch's samples.
        target: (B, ...), what the model output should be, in the layout of the latents; float32.
        wiring: tells the model output from what the model returns.
    """

    inputs: Arguments
    share: float
    target: Tensor
    wiring: Wiring

    def loss(self, output: Any) -> Tensor:
        """The mean squared error of the model output, a scalar; a learned variance is no part of it."""
        return F.mse_loss(self.wiring.model_output(output, len(self.target)).to(self.target.dtype), self.target)
