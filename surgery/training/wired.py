"""Samples of a pipeline as training data: z_t and the conditions go into the model as the pipeline feeds them to it.

Shapes: B samples, ... the latents of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.pipelines.collate import collate
from surgery.pipelines.feed import Feed
from surgery.pipelines.parts import Condition
from surgery.pipelines.process import Process, process_of
from surgery.pipelines.sources import condition_of, wiring_of
from surgery.pipelines.times import drawn_positions
from surgery.pipelines.tree import Arguments, moved
from surgery.pipelines.wiring import Wiring
from surgery.progress import Progress
from surgery.recording.parameters import first_floating
from surgery.store import InMemory, Order, Sample, Store, held_out
from surgery.store.order import seeded

CONDITION_DROP = 0.1
"""The share of samples that get the unconditional branch's condition, which keeps classifier-free guidance working (Ho &
Salimans 2022)."""


@dataclass(frozen=True)
class WiredData:
    """Samples, and how a pipeline feeds them to its model; see `surgery.training.source.TrainingData`.

    Attributes:
        feed: the samples and the wirings, on the device to train on.
        identity: digests of what the samples are made from, and of the scheduler.
        release: frees what the samples were made with.
    """

    feed: Feed
    identity: Mapping[str, str]
    release: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.feed.samples)

    @property
    def wirings(self) -> Sequence[Wiring]:
        """One for each size of the latents."""
        return self.feed.wirings

    @property
    def wiring(self) -> Wiring:
        """The one for most samples."""
        return self.wirings[0]

    @cached_property
    def processes(self) -> list[Process]:
        """q(z_t | z), and its target, for each wiring."""
        return [process_of(wiring.schedule) for wiring in self.wirings]

    @cached_property
    def positions(self) -> list[Tensor]:
        """The positions of each wiring's schedule at which that component is run, ascending."""
        runs = [wiring.branches[wiring.conditional].models for wiring in self.wirings]
        return [torch.tensor([p for p, name in enumerate(models) if name == self.feed.model]) for models in runs]

    def stored(self, folder: Path, progress: Progress) -> WiredData:
        """The same data with all samples made and kept in `folder`.

        Raises:
            ArtifactError, SurgeryError: see `surgery.store.fill`.
        """
        if isinstance(self.feed.samples, Store | InMemory):
            return self
        feed = self.feed.stored(folder, self.identity, progress)
        self.release()
        return replace(self, feed=feed)

    def example(self, seed: int, device: str) -> Arguments:
        """Keywords of the model's forward for one sample, with the pipeline's own condition."""
        wiring = self.wiring
        noise = torch.randn(1, *wiring.shape, generator=seeded(seed, "example")).to(device)
        positions = self.positions[0]
        position = positions[len(positions) // 2 :][:1]
        return collate(wiring, noise, position, [wiring.conditions[wiring.conditional]])[0].arguments

    def source(self, model: nn.Module, *, stage: str, batch_size: int, seed: int) -> WiredBatches:
        """Its batches for `model`."""
        samples = self.feed.samples
        assert isinstance(samples, Store | InMemory), "samples are made before they are trained on"
        return WiredBatches(self, samples, model, stage=stage, batch_size=batch_size, seed=seed)


class WiredBatches:
    """Noised batches for a model, each of latents of one shape, and as few forwards as the pipeline's batching allows.

    Times are drawn uniformly along the schedule, which is shifted as the scheduler shifts it.
    """

    def __init__(
        self,
        data: WiredData,
        samples: Store | InMemory,
        model: nn.Module,
        *,
        stage: str,
        batch_size: int,
        seed: int,
    ) -> None:
        self._data, self._samples, self._stage, self._seed = data, samples, stage, seed
        self._held, self._training = held_out(samples.contents, batch_size, seed)
        self._order = Order([samples.shapes[number] for number in self._training], batch_size, seed)
        first = first_floating(model)
        assert first is not None, "a model without weights is not trained"
        self._device = first.device

    def training(self, step: int) -> Sequence[WiredForward]:
        """The batch of a step, counted from 0."""
        numbers = [self._training[place] for place in self._order.batch(step)]
        return self._noised(numbers, seeded(self._seed, self._stage, step))

    def held_out(self, draw: int = 0) -> Sequence[WiredForward]:
        """The held-out samples, with noise and times that depend on `draw` alone; none of under 20 different ones."""
        return self._noised(self._held, seeded(self._seed, f"{self._stage} held out", draw))

    def _noised(self, numbers: Sequence[int], generator: torch.Generator) -> list[WiredForward]:
        """The forwards for samples, those of each wiring apart."""
        groups: dict[int, list[Sample]] = {}
        for sample in map(self._samples.__getitem__, numbers):
            groups.setdefault(wiring_of(sample), []).append(sample)
        found = [self._forwards(number, samples, len(numbers), generator) for number, samples in sorted(groups.items())]
        return [forward for forwards in found for forward in forwards]

    def _forwards(
        self, number: int, samples: Sequence[Sample], of: int, generator: torch.Generator
    ) -> list[WiredForward]:
        """The forwards for samples of one wiring, out of so many in the batch."""
        data, wiring, process = self._data, self._data.wirings[number], self._data.processes[number]
        latents = torch.stack([sample.latents for sample in samples]).float()
        noise = torch.randn(latents.shape, generator=generator)
        known = data.positions[number]
        positions = known[drawn_positions("uniform", len(samples), len(known), generator)]
        dropped = torch.rand(len(samples), generator=generator) < CONDITION_DROP
        conditions = [self._condition(wiring, s, bool(drop)) for s, drop in zip(samples, dropped, strict=True)]
        noised = process.noised(latents, noise, positions).to(self._device)
        target = process.target(latents, noise, positions).to(self._device)
        batches = collate(wiring, noised, positions, conditions)
        return [WiredForward(b.arguments, len(b.rows) / of, target[list(b.rows)], wiring) for b in batches]

    def _condition(self, wiring: Wiring, sample: Sample, dropped: bool) -> Condition:
        branch = wiring.conditional if wiring.unconditional is None or not dropped else wiring.unconditional
        condition = condition_of(sample, branch)
        return Condition(branch, moved(condition.arguments, self._device))


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
