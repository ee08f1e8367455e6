"""What serves any pipeline: the teacher's own forwards along its sampling, each with what it gave."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from surgery.errors import WiringError
from surgery.pipelines.calls import Calls
from surgery.pipelines.drive import Call
from surgery.pipelines.record import record
from surgery.pipelines.sources import Holder
from surgery.pipelines.tree import moved, prediction, stacked
from surgery.store.order import seeded
from surgery.store.sample import Sample


class TrajectorySamples:
    """The forwards of runs of a pipeline, one after the other: a source for a store.

    Of a sample, the latents are what the model predicted, and the conditions are the keywords that it was given.

    Attributes:
        model: name of the component whose forwards these are: the one that the first step ends with.
        forwards: of each run.
    """

    def __init__(self, holder: Holder, calls: Calls, runs: int, seed: int) -> None:
        """Make the first run.

        Raises:
            WiringError: the pipeline makes no step.
        """
        self._holder, self._calls, self._runs, self._seed = holder, calls, runs, seed
        self._run = lru_cache(1)(self._made)
        self.model = record(holder.pipeline, calls(0, steps=2)).steps[0].calls[-1].model
        self.forwards = len(self._run(0))

    def __len__(self) -> int:
        return self._runs * self.forwards

    def __getitem__(self, number: int) -> Sample:
        run, place = divmod(number, self.forwards)
        found = self._run(run)
        if len(found) != self.forwards:
            raise WiringError(f"run {run} of the pipeline makes {len(found)} forwards, the first made {self.forwards}")
        return Sample(stacked(prediction(found[place].output)).cpu(), moved(found[place].arguments, "cpu"))

    def _made(self, number: int) -> Sequence[Call]:
        call = self._calls(number, generator=seeded(self._seed, "generated", number))
        steps = record(self._holder.pipeline, call).steps
        return [each for step in steps for each in step.calls if each.model == self.model]
