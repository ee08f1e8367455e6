"""Samples of a pipeline as training data: z_t and the conditions go into the model as the pipeline feeds them to it.

Shapes: B samples, ... the latents of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from surgery.parallel.division import divided, evened
from surgery.pipelines.collate import collate
from surgery.pipelines.feed import Feed
from surgery.pipelines.parts import Condition
from surgery.pipelines.process import Process, process_of
from surgery.pipelines.sources import condition_of, wiring_of
from surgery.pipelines.times import Uniform
from surgery.pipelines.tree import Arguments, moved
from surgery.pipelines.variance import variance_elements
from surgery.pipelines.wiring import Wiring
from surgery.progress import Progress
from surgery.recording.parameters import first_floating
from surgery.store import InMemory, Order, Sample, Store, held_out
from surgery.store.order import seeded
from surgery.training.forward import Taught, WiredForward
from surgery.training.source import PLAIN, Noising

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
    def joins_samples(self) -> bool:
        """Whether several samples share a forward."""
        return not self.wiring.batching.odd

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
    def variances(self) -> list[Tensor | None]:
        """See `surgery.pipelines.variance`; for each wiring."""
        return [variance_elements(*pair) for pair in zip(self.wirings, self.processes, strict=True)]

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
        feed = self.feed.stored(folder, self.identity, progress)
        self.release()
        return replace(self, feed=feed)

    def example(self, seed: int, device: str, samples: int = 1) -> Arguments:
        """Keywords of the model's forward for as many samples as can share one, with the pipeline's own condition."""
        wiring = self.wiring
        noise = torch.randn(samples, *wiring.shape, generator=seeded(seed, "example")).to(device)
        positions = self.positions[0]
        middle = positions[len(positions) // 2].repeat(samples)
        return collate(wiring, noise, middle, samples * [wiring.conditions[wiring.conditional]])[0].arguments

    def source(
        self, model: nn.Module, *, stage: str, batch_size: int, seed: int, noising: Noising = PLAIN
    ) -> WiredBatches:
        """Its batches for `model`."""
        samples = self.feed.samples
        assert isinstance(samples, Store | InMemory), "samples are made before they are trained on"
        return WiredBatches(self, samples, model, stage=stage, batch_size=batch_size, seed=seed, noising=noising)


class WiredBatches:
    """Noised batches for a model, each of latents of one shape, and as few forwards as the pipeline's batching allows."""

    def __init__(
        self,
        data: WiredData,
        samples: Store | InMemory,
        model: nn.Module,
        *,
        stage: str,
        batch_size: int,
        seed: int,
        noising: Noising,
    ) -> None:
        self._data, self._samples, self._stage, self._seed = data, samples, stage, seed
        self._noising = noising
        self._held, self._training = held_out(samples.contents, batch_size, seed)
        self._order = Order([samples.shapes[number] for number in self._training], batch_size, seed)
        first = first_floating(model)
        assert first is not None, "a model without weights is not trained"
        self._device = first.device

    def training(self, step: int) -> Sequence[WiredForward]:
        """The batch of a step, counted from 0."""
        numbers = [self._training[place] for place in self._order.batch(step)]
        return self._noised(numbers, self._noising, seeded(self._seed, self._stage, step))

    def held_out(self, draw: int = 0) -> Sequence[WiredForward]:
        """The held-out samples, with noise and times that depend on `draw` alone; none of under 20 different ones."""
        plain = replace(self._noising, times=Uniform(), weights=None)
        judged = self._noised(self._held, plain, seeded(self._seed, f"{self._stage} held out", draw))
        return [replace(forward, variance=None) for forward in judged]

    def _noised(self, numbers: Sequence[int], noising: Noising, generator: torch.Generator) -> list[WiredForward]:
        """The forwards for this process's part of the samples, those of each wiring apart."""
        groups: dict[int, list[int]] = {}
        for number in numbers:
            groups.setdefault(wiring_of(self._samples.outline(number)), []).append(number)
        parts = [
            replace(forward, share=forward.share * len(group) / len(numbers))
            for wiring, group in sorted(groups.items())
            for forward in self._forwards(wiring, group, noising, generator)
        ]
        return evened(parts)

    def _forwards(
        self, number: int, numbers: Sequence[int], noising: Noising, generator: torch.Generator
    ) -> list[WiredForward]:
        """The forwards for this process's part of samples of one wiring; noise is drawn for all of them."""
        data, wiring, process = self._data, self._data.wirings[number], self._data.processes[number]
        noise = torch.randn(len(numbers), *self._samples.shapes[numbers[0]], generator=generator)
        known = data.positions[number]
        positions = known[noising.times.draw(len(numbers), len(known), generator)]
        dropped = torch.rand(len(numbers), generator=generator) < CONDITION_DROP
        own = divided(len(numbers))
        noise, positions, dropped = noise[own.rows], positions[own.rows], dropped[own.rows]
        samples = [self._samples[numbers[row]] for row in own.rows]
        latents = torch.stack([sample.latents for sample in samples]).float()
        conditions = [self._condition(wiring, s, bool(drop)) for s, drop in zip(samples, dropped, strict=True)]
        noised, target = process.noised(latents, noise, positions), process.target(latents, noise, positions)
        weights = (
            torch.ones(len(samples)) if noising.weights is None else noising.weights.at(process, positions).float()
        )
        taught = Taught(latents, noised, target, positions, weights)
        batches = collate(wiring, noised.to(self._device), positions, conditions, noising.micro_batch)
        return [
            WiredForward(
                inputs=batch.arguments,
                share=own.weight * len(batch.rows) / len(numbers),
                taught=taught.of(batch.rows, self._device),
                wiring=wiring,
                process=process,
                variance=data.variances[number],
            )
            for batch in batches
        ]

    def _condition(self, wiring: Wiring, sample: Sample, dropped: bool) -> Condition:
        branch = wiring.conditional if wiring.unconditional is None or not dropped else wiring.unconditional
        condition = condition_of(sample, branch)
        return Condition(branch, moved(condition.arguments, self._device))
