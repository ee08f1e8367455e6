"""Real runs of a pipeline: samples and their conditions, and whole trajectories for pipelines that have no wiring."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.drive import Done, Forward, Listener, Step, drive
from surgery.pipelines.experiment import split_calls
from surgery.pipelines.tree import Arguments, kept
from surgery.pipelines.wiring import Wiring
from surgery.store.sample import Sample


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


def record(pipeline: Any, call: Mapping[str, Any]) -> Trajectory:
    """Run `pipeline(**call)`, without decoding, and keep everything.

    This serves any pipeline; what can be learned from it are the model's own outputs, at the run's own timesteps.

    Raises:
        WiringError: the run makes no step.
    """
    listener = _Recorder()
    drive(pipeline, undecoded(pipeline, call), listener)
    if listener.latents is None:
        raise WiringError(f"{type(pipeline).__name__} made no step of its scheduler")
    return Trajectory(tuple(listener.steps), listener.latents)


def run_to_end(pipeline: Any, call: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """The last latents of `pipeline(**call)`, in the layout of the scheduler, and what the pipeline makes of them.

    Raises:
        WiringError: the run fails, or makes no step.
    """
    listener = _Recorder(keep=0)
    try:
        output = drive(pipeline, call, listener)
    except Exception as error:  # of the pipeline's own code, decoding for example
        raise WiringError(f"{type(pipeline).__name__} does not run to its end: {error!r}") from error
    if listener.latents is None:
        raise WiringError(f"{type(pipeline).__name__} made no step of its scheduler")
    return listener.latents, output


def first_step(pipeline: Any, call: Mapping[str, Any]) -> Step:
    """The first step of `pipeline(**call)`, where the run ends.

    Raises:
        WiringError: the run makes no step.
    """
    return _first(pipeline, call, _Recorder(keep=1, ends=True))


def sample(pipeline: Any, call: Mapping[str, Any], wiring: Wiring) -> Sample:
    """The sample that `pipeline(**call)` makes, on the CPU, before it is decoded; its conditions are arguments by branch.

    Raises:
        WiringError: the run's first step is not wired as `wiring` is: its latents are of another size, for example.
    """
    listener = _Recorder(keep=1)
    conditions = _conditions_in(_first(pipeline, undecoded(pipeline, call), listener), wiring.to("cpu"))
    assert listener.latents is not None
    return Sample(listener.latents[0], conditions)


class Conditioning:
    """What a pipeline gives its denoiser besides latents and the time.

    The denoiser runs for the first call only; for later ones its output is that one again, which no condition rests on.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring.to("cpu")
        self._outputs: dict[str, Any] = {}

    def __call__(self, pipeline: Any, call: Mapping[str, Any]) -> list[Arguments]:
        """The conditions of a call by branch, on the CPU.

        Raises:
            WiringError: the call's first step is not wired as that which was measured.
        """
        denoisers = {name for branch in self._wiring.branches for name in branch.models}
        listener = _Recorder(keep=1, ends=True, standing_in=(denoisers, self._outputs))
        return _conditions_in(_first(pipeline, call, listener), self._wiring)


def _first(pipeline: Any, call: Mapping[str, Any], listener: _Recorder) -> Step:
    drive(pipeline, call, listener)
    if not listener.steps:
        raise WiringError(f"{type(pipeline).__name__} made no step of its scheduler")
    return listener.steps[0]


def _conditions_in(step: Step, wiring: Wiring) -> list[Arguments]:
    """The conditions of a run's first step, once what comes from the latents has been compared."""
    rows = [sum(b.call == call for b in wiring.branches) for call in range(wiring.branches[-1].call + 1)]
    if tuple(step.sample.shape[1:]) != wiring.shape:
        raise WiringError(f"latents of shape {tuple(step.sample.shape[1:])} where the wiring is of {wiring.shape}")
    parts = split_calls([c.arguments for c in step.calls[-len(rows) :]], rows, wiring.batching)
    conditions = wiring.conditions_of(parts)
    for part, condition in zip(parts, conditions, strict=True):
        wiring.require_latents(part, step.scaled[0], condition)
    return [condition.arguments for condition in conditions]


def undecoded(pipeline: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of `call` with which the pipeline gives latents, where it can."""
    known = inspect.signature(pipeline.__call__).parameters
    return {**call, "output_type": "latent"} if "output_type" in known else dict(call)


class _Recorder(Listener):
    """Keeps the first `keep` steps, all without, and the latents of the last.

    `ends` ends the run with the first step. The models named in `standing_in` run once; then the outputs there serve.
    """

    def __init__(
        self, keep: int | None = None, ends: bool = False, standing_in: tuple[set[str], dict[str, Any]] = (set(), {})
    ) -> None:
        self.steps: list[Step] = []
        self.latents: Tensor | None = None
        self._keep, self._ends = keep, ends
        self._stood_in, self._outputs = standing_in

    def forward(self, model: str, forward: Forward, arguments: Arguments) -> Any:
        if model not in self._stood_in:
            return forward(**arguments)
        if model not in self._outputs:
            self._outputs[model] = forward(**arguments)
        return self._outputs[model]

    def step(self, seen: Step, previous: Tensor) -> Tensor:
        if self._keep is None or len(self.steps) < self._keep:
            for call in seen.calls:
                call.output = kept(call.output)
            self.steps.append(seen)
        if self._ends:
            raise Done
        self.latents = kept(previous)
        return previous
