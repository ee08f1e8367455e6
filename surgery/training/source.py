"""What the stages ask of their data, whatever these are: forwards of a model, and the loss of what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from surgery.parallel.division import sum_over_all
from surgery.pipelines.times import Density, LossWeight, Uniform
from surgery.pipelines.tree import prediction, stacked
from surgery.progress import Progress


class Forward(Protocol):
    """One forward of a batch; samples that cannot share one have several."""

    @property
    def inputs(self) -> dict[str, Any]:
        """The keywords to call the model with."""

    @property
    def share(self) -> float:
        """Of the batch's samples; those of all its forwards, in all processes, sum to 1."""

    def loss(self, output: Tensor) -> Tensor:
        """The mean denoising loss of its samples, a scalar, if `output` is what the model predicts for `inputs`."""


@dataclass(frozen=True)
class Noising:
    """How the samples of a batch are noised, weighed and run; what is held out is always noised uniformly, not weighed.

    Attributes:
        times: where along the schedule.
        weights: how much each sample counts; None weighs all alike.
        micro_batch: the most samples of one forward; None lets all share one that can.
    """

    times: Density = field(default_factory=Uniform)
    weights: LossWeight | None = None
    micro_batch: int | None = None


PLAIN = Noising()


class Source(Protocol):
    """The batches of one stage; each depends on its number alone, so a resumed training sees the same.

    Several processes divide a batch: each gets forwards of its own samples, and all as many.
    """

    def training(self, step: int) -> Sequence[Forward]:
        """The batch of a step, counted from 0."""

    def held_out(self, draw: int = 0) -> Sequence[Forward]:
        """Samples that are never trained on, with noise that depends on `draw` alone; none if the data are too few."""


class TrainingData(Protocol):
    """Samples, and how they are noised."""

    def __len__(self) -> int:
        """How many samples there are."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Digests of all that the batches depend on besides the seed: of the "data" and of the "scheduler"."""

    @property
    def joins_samples(self) -> bool:
        """Whether several samples share a forward."""

    def stored(self, folder: Path, progress: Progress) -> TrainingData:
        """The same data, made and kept in `folder` first where this takes long."""

    def example(self, seed: int, device: str, samples: int = 1) -> dict[str, Any]:
        """Keywords of the model's forward for one sample, or for as many of these as can share one."""

    def source(self, model: nn.Module, *, stage: str, batch_size: int, seed: int, noising: Noising = PLAIN) -> Source:
        """Batches for `model`, on its device.

        Args:
            model: the one that is called.
            stage: another name gives other noise and times.
            batch_size: samples in a batch; as many, at most, are held out.
            seed: of what is held out, the order, noise and times.
            noising: at which times, and in which portions.
        """


def predict(model: Callable[..., Any], inputs: dict[str, Any]) -> Tensor:
    """What a denoiser predicts: its first output; of a list, the samples stacked."""
    return stacked(prediction(model(**inputs)))


def batch_loss(model: nn.Module, batch: Sequence[Forward]) -> float:
    """The denoising loss of a model on a batch, of which each process has its part, without gradients."""
    with torch.no_grad():
        own = sum(forward.share * forward.loss(predict(model, forward.inputs)).item() for forward in batch)
    return sum_over_all(own)
