"""Real runs of a pipeline: samples and their conditions, and whole trajectories for pipelines that have no wiring."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.drive import Listener, Step, drive
from surgery.pipelines.experiment import split_calls
from surgery.pipelines.parts import Condition
from surgery.pipelines.tree import cloned
from surgery.pipelines.wiring import Wiring


@dataclass(frozen=True)
class Trajectory:
    """One real run.

    Attributes:
        steps: with the arguments and outputs of each forward. The calls of the first one begin with those of text
            encoders.
        latents: what the last step gave, in the layout of the scheduler.
    """

    steps: tuple[Step, ...]
    latents: Tensor


@dataclass(frozen=True)
class Sample:
    """One sample of a pipeline.

    Attributes:
        latents: z, of `Wiring.shape`.
        conditions: by branch.
    """

    latents: Tensor
    conditions: tuple[Condition, ...]


def record(pipeline: Any, call: Mapping[str, Any]) -> Trajectory:
    """Run `pipeline(**call)`, without decoding, and keep everything.

    This serves any pipeline; what can be learned from it are the model's own outputs, at the run's own timesteps.

    Raises:
        WiringError: the run makes no step.
    """
    listener = _Recorder()
    drive(pipeline, _undecoded(pipeline, call), listener)
    if listener.latents is None:
        raise WiringError(f"{type(pipeline).__name__} made no step of its scheduler")
    return Trajectory(tuple(listener.steps), listener.latents)


def run_to_end(pipeline: Any, call: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """The last latents of `pipeline(**call)`, in the layout of the scheduler, and what the pipeline makes of them.

    Raises:
        WiringError: the run makes no step.
    """
    listener = _Recorder(keep=0)
    output = drive(pipeline, call, listener)
    if listener.latents is None:
        raise WiringError(f"{type(pipeline).__name__} made no step of its scheduler")
    return listener.latents, output


def sample(pipeline: Any, call: Mapping[str, Any], wiring: Wiring) -> Sample:
    """The sample that `pipeline(**call)` makes, before it is decoded, and its conditions.

    Raises:
        WiringError: the run's first step is not wired as `wiring` is: its latents are of another size, for example.
    """
    rows = [sum(b.call == call for b in wiring.branches) for call in range(wiring.branches[-1].call + 1)]
    listener = _Recorder(keep=1)
    drive(pipeline, _undecoded(pipeline, call), listener)
    if listener.latents is None:
        raise WiringError(f"{type(pipeline).__name__} made no step of its scheduler")
    first = listener.steps[0]
    if tuple(first.sample.shape[1:]) != wiring.shape:
        raise WiringError(f"latents of shape {tuple(first.sample.shape[1:])} where the wiring is of {wiring.shape}")
    parts = split_calls([c.arguments for c in first.calls[-len(rows) :]], rows, wiring.batching)
    conditions = wiring.conditions_of(parts)
    for part, condition in zip(parts, conditions, strict=True):
        wiring.require_latents(part, first.sample[0], condition)
    return Sample(listener.latents[0], conditions)


def _undecoded(pipeline: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(pipeline.__call__).parameters
    return {**call, "output_type": "latent"} if "output_type" in known else dict(call)


class _Recorder(Listener):
    """Keeps the first `keep` steps, all without, and the latents of the last."""

    def __init__(self, keep: int | None = None) -> None:
        self.steps: list[Step] = []
        self.latents: Tensor | None = None
        self._keep = keep

    def step(self, seen: Step, previous: Tensor) -> Tensor:
        if self._keep is None or len(self.steps) < self._keep:
            for call in seen.calls:
                call.output = cloned(call.output)
            self.steps.append(seen)
        self.latents = previous.detach().clone()
        return previous
