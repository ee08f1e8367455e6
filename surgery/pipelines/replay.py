"""Running a pipeline once more, from other noise, and giving each of its arguments by the wiring: to the bit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.drive import Call, Done, Listener, Step, drive
from surgery.pipelines.experiment import split_calls
from surgery.pipelines.opening import Opening
from surgery.pipelines.parts import Condition
from surgery.pipelines.stub import Stub
from surgery.pipelines.tree import Arguments, Lent, leaves, moved, prediction, rows_of, same
from surgery.pipelines.wiring import Wiring

REAL = 2
"""So many steps are run as the pipeline's own."""
RENEWED = 8
"""So often they are drawn anew, and what comes from them is compared; what does not is compared in every step."""
SEED = 1
ROUNDING = 32
"""Guidance may round the model output by so many units of its dtype's precision."""


def replay(pipeline: Any, call: Mapping[str, Any], first: Opening, wiring: Wiring) -> Wiring:
    """Check `wiring` in a run of `call`, whose first step was `first`.

    Returns:
        The wiring, not linear where guidance is a weighted sum at the first positions only.

    Raises:
        WiringError: an argument or a model output of the run is not what the wiring gives.
    """
    checker = _Checker(first, wiring)
    drive(pipeline, _from_other_noise(call), _Real(checker), SEED)
    checker.start_again()
    drive(pipeline, _from_other_noise(call), _Replay(first, wiring, checker), SEED)
    if checker.remembers:
        checker.start_again()
        drive(pipeline, _from_other_noise(call), _Replay(first, wiring, checker, differ=False), SEED)
    return replace(wiring, linear=checker.linear)


def _from_other_noise(call: Mapping[str, Any]) -> dict[str, Any]:
    """The call with a generator in another state, where it has one."""
    given = call.get("generator")
    if not isinstance(given, torch.Generator):
        return dict(call)
    return {**call, "generator": torch.Generator(given.device).manual_seed(given.initial_seed() + SEED)}


class _Checker:
    """Compares steps of runs with a wiring, one after the other.

    Attributes:
        position: of the next step.
        linear: whether guidance was a weighted sum so far.
        remembers: whether guidance changed equal predictions, as it does if it adds up how others differed before.
    """

    def __init__(self, first: Opening, wiring: Wiring) -> None:
        self.position, self.linear, self.remembers = 0, wiring.linear, False
        self._certain = False
        self._rows, self._wiring = first.rows, wiring
        self._conditions: Sequence[Condition] = ()

    def start_again(self) -> None:
        """Go on with the first step of another run, which may have other objects for conditions.

        If guidance remembers, all its predictions are alike in that run, so that it has nothing to add.
        """
        self.position, self._conditions, self._certain = 0, (), self.remembers

    def check(self, seen: Step, renewed: bool, alike: bool = False) -> None:
        """Check the next step.

        Args:
            seen: the step.
            renewed: whether its latents and predictions are others than in the last one.
            alike: whether all branches predict the same, which guidance leaves as it is.
        """
        wiring, calls = self._wiring, seen.calls[-len(self._rows) :]
        if seen.timestep != float(wiring.schedule.timesteps[self.position]):
            raise WiringError(f"the timesteps of {wiring.pipeline} change from run to run")
        parts = split_calls([call.arguments for call in calls], self._rows, wiring.batching)
        self._conditions = self._conditions or wiring.conditions_of(parts)
        for part, condition in zip(parts, self._conditions, strict=True):
            wiring.require(part, seen.sample[0].cpu() if renewed else None, self.position, condition)
        if renewed:
            self._check_joined(parts, seen)
        if renewed:
            self._check_output(calls, seen, alike)
        self.position += 1

    def _check_joined(self, parts: list[Arguments], seen: Step) -> None:
        """That the branches of one forward, joined, are its arguments."""
        for call, rows in zip(reversed(seen.calls), reversed(self._rows), strict=False):
            own, parts = parts[-rows:], parts[:-rows]
            joined, real = leaves(self._wiring.batching.join(own)), leaves(call.arguments)
            for path, leaf in real.items():
                if not same(leaf, joined[path]):
                    raise WiringError(
                        f"argument {path} is not its rows, joined along the dimension that counts samples"
                    )

    def _check_output(self, calls: list[Call], seen: Step, alike: bool) -> None:
        wiring = self._wiring
        counted = zip(calls, self._rows, strict=True)
        rows = [row for call, count in counted for row in wiring.model_output(moved(call.output, "cpu"), count)]
        if not (alike or self.linear):
            return
        own, real = (rows[0] if alike else wiring.guided(rows)).double(), seen.model_output[0].cpu().double()
        largest = max(abs(b.weight) * float(row.abs().max()) for b, row in zip(wiring.branches, rows, strict=True))
        if float((own - real).abs().max()) <= ROUNDING * torch.finfo(seen.model_output.dtype).eps * largest:
            return
        if alike and (self.linear or self._certain):
            raise WiringError(f"the model output at position {self.position} is not what the prediction gives")
        self.remembers |= alike
        self.linear = False


class _Real(Listener):
    """The first steps, of the pipeline's own."""

    def __init__(self, checker: _Checker) -> None:
        self._checker = checker

    def step(self, seen: Step, previous: Tensor) -> Tensor:
        self._checker.check(seen, renewed=True)
        if self._checker.position == REAL:
            raise Done
        return previous


class _Replay(Stub):
    """The whole schedule; latents and predictions are random numbers, those of all branches the same.

    Where they may `differ`, they do so every other time.
    """

    def __init__(self, first: Opening, wiring: Wiring, checker: _Checker, differ: bool = True) -> None:
        super().__init__(first)
        self._checker, self._wiring = checker, wiring
        self._random = torch.Generator().manual_seed(SEED)
        self._elements = rows_of(prediction(first.step.calls[0].output), first.rows[0]).shape[1]
        self._draws = itertools.cycle((1, len(wiring.branches)) if differ else (1,))
        self._predictions = self._drawn_predictions()
        self._latents: Lent | None = None

    def predictions(self) -> Sequence[Tensor]:
        return self._predictions

    def step(self, seen: Step, previous: Tensor) -> Tensor:
        super().step(seen, previous)
        self._checker.check(seen, self._renews(self._checker.position), len(self._predictions) == 1)
        position = self._checker.position
        if position == len(self._wiring.schedule):
            raise Done
        if self._latents is None or self._renews(position):
            drawn = self._drawn(*previous.shape).to(previous)
            self._latents, self._predictions = Lent(drawn.clone), self._drawn_predictions()
        latents: Tensor = self._latents()
        return latents

    def _renews(self, position: int) -> bool:
        return position <= 1 or position % (len(self._wiring.schedule) // RENEWED + 1) == 0

    def _drawn_predictions(self) -> list[Tensor]:
        return [self._drawn(self._elements) for _ in range(next(self._draws))]

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._random)
