"""Recorded forwards of the teacher as training data: for pipelines of which no wiring, or no process, is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from surgery.parallel.division import divided, evened
from surgery.pipelines.feed import Feed, Recorded
from surgery.pipelines.tree import Arguments, moved
from surgery.progress import Progress
from surgery.recording.parameters import first_floating
from surgery.store import InMemory, Order, Sample, Store, held_out
from surgery.training.source import PLAIN, Noising


@dataclass(frozen=True)
class RecordedData:
    """Forwards of the teacher along its own sampling; see `surgery.training.source.TrainingData`.

    What can be learnt from them is what the teacher gave, at the timesteps of its own steps.

    Attributes:
        feed: the forwards, see `surgery.pipelines.trajectories.TrajectorySamples`.
        identity: digests of what they are made from.
        release: frees what they were made with.
    """

    feed: Feed
    identity: Mapping[str, str]
    release: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        """How many runs there are: forwards of one are not told apart when some are held out."""
        return len(self.feed.samples) // self.each

    @property
    def each(self) -> int:
        """Forwards of a run."""
        return self._recorded.forwards

    @property
    def why(self) -> str:
        """A line that says why these serve."""
        return self._recorded.why

    @property
    def _recorded(self) -> Recorded:
        assert self.feed.recorded is not None, "the feed is wired"
        return self.feed.recorded

    def stored(self, folder: Path, progress: Progress) -> RecordedData:
        """The same data with all forwards made and kept in `folder`; says why these serve.

        Raises:
            ArtifactError, SurgeryError: see `surgery.store.fill`.
        """
        progress.say(self.why)
        feed = self.feed.stored(folder, self.identity, progress)
        self.release()
        return replace(self, feed=feed)

    @property
    def joins_samples(self) -> bool:
        """Recorded forwards stay apart."""
        return False

    def example(self, seed: int, device: str, samples: int = 1) -> Arguments:  # noqa: ARG002
        """Keywords of the model's forward for one sample: those of the first step."""
        found: Arguments = moved(self.feed.samples[0].conditions, device)
        return found

    def source(
        self,
        model: nn.Module,
        *,
        stage: str,  # noqa: ARG002
        batch_size: int,
        seed: int,
        noising: Noising = PLAIN,  # noqa: ARG002
    ) -> RecordedBatches:
        """Its batches for `model`; forwards are as noisy as they were recorded."""
        samples = self.feed.samples
        assert isinstance(samples, Store | InMemory), "samples are made before they are trained on"
        first = first_floating(model)
        assert first is not None, "a model without weights is not trained"
        runs = [str(number // self.each) for number in range(len(samples))]
        return RecordedBatches(samples, runs, batch_size, seed, str(first.device))


class RecordedBatches:
    """Forwards as they were, one for each sample of a batch; runs are held out as a whole."""

    def __init__(self, samples: Store | InMemory, runs: Sequence[str], batch_size: int, seed: int, device: str) -> None:
        self._samples, self._device = samples, device
        self._held, self._training = held_out(runs, batch_size, seed)
        self._held = self._held[:: max(1, len(self._held) // batch_size)]  # all along the runs, as few as a batch
        self._order = Order([""] * len(self._training), batch_size, seed)

    def training(self, step: int) -> Sequence[RecordedForward]:
        """The batch of a step, counted from 0."""
        return self._forwards([self._training[place] for place in self._order.batch(step)])

    def held_out(self, draw: int = 0) -> Sequence[RecordedForward]:  # noqa: ARG002
        """Forwards of the held-out runs; none of under 20 runs."""
        return self._forwards(self._held)

    def _forwards(self, numbers: Sequence[int]) -> list[RecordedForward]:
        """Those of this process."""
        if not numbers:
            return []
        own = divided(len(numbers))
        return evened([self._forward(self._samples[numbers[row]], own.weight / len(numbers)) for row in own.rows])

    def _forward(self, sample: Sample, share: float) -> RecordedForward:
        return RecordedForward(moved(sample.conditions, self._device), share, sample.latents.to(self._device))


@dataclass(frozen=True)
class RecordedForward:
    """One forward; see `surgery.training.source.Forward`.

    Attributes:
        inputs: the keywords.
        share: of the batch's samples.
        target: what the teacher predicted.
    """

    inputs: Arguments
    share: float
    target: Tensor

    def loss(self, output: Any) -> Tensor:
        """The mean squared error to what the teacher predicted, a scalar."""
        return F.mse_loss(output.float(), self.target.float())
