"""A run whose latents and predictions are of our choice: what the pipeline makes of them is what is to be learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.affine import digits_of
from surgery.pipelines.batching import Batching
from surgery.pipelines.drive import Done, Step
from surgery.pipelines.opening import Opening
from surgery.pipelines.scaling import Scalings
from surgery.pipelines.stub import Stub
from surgery.pipelines.table import History
from surgery.pipelines.tree import Arguments, Lent, kept, leaves, same

CHECKS = 2


@dataclass(frozen=True)
class Feed:
    """What one step is given.

    Attributes:
        latents: (elements,) in the layout of the scheduler; None leaves the pipeline's own.
        predictions: by branch of guidance, (elements of one prediction,); a single one serves all.
    """

    latents: Tensor | None
    predictions: Sequence[Tensor]


@dataclass
class Plan:
    """The steps to make, and which of them show what."""

    feeds: list[Feed] = field(default_factory=list)
    digits: list[int] = field(default_factory=list)
    checks: list[int] = field(default_factory=list)
    single: list[int] = field(default_factory=list)
    mixed: int = 0
    zero: int = 1
    one: int = 2


def plan_of(latents: int, predicted: int, branches: int, generator: torch.Generator) -> Plan:
    """The experiments for `latents` elements, `predicted` elements of a prediction and `branches` of guidance.

    Predictions are never 0, nor all equal, as some guidance divides by their norm or spread.
    """

    def random(elements: int) -> Tensor:  # exact in bfloat16, so that no dtype on the way rounds it
        return torch.randn(elements, generator=generator).bfloat16().float()

    zero, plan = torch.zeros(latents), Plan()
    base = torch.arange(predicted) % 2 / 2 + 0.5
    plan.feeds += [Feed(None, [base]), Feed(zero, [base]), Feed(torch.ones(latents), [base + 1])]
    digits, others = digits_of(latents), digits_of(predicted)
    for place in range(max(len(digits), len(others))):
        plan.digits.append(len(plan.feeds))
        plan.feeds.append(Feed(_at(digits, place), [_at(others, place) + base]))
    for _ in range(CHECKS):
        plan.checks.append(len(plan.feeds))
        plan.feeds.append(Feed(random(latents), [random(predicted)]))
    for branch in range(branches):
        plan.single.append(len(plan.feeds))
        plan.feeds.append(Feed(zero, [base * (2 if branch == other else 1) for other in range(branches)]))
    plan.mixed = len(plan.feeds)
    plan.feeds.append(Feed(random(latents), [random(predicted) for _ in range(branches)]))
    return plan


def _at(digits: list[Tensor], place: int) -> Tensor:
    return digits[place] if place < len(digits) else torch.zeros_like(digits[0])


Key = tuple[int, str]
"""A branch of guidance, and the path of an argument."""


class Experiment(Stub):
    """Makes the steps of a plan, then goes through the rest of the schedule with latents of 0 and notes what changes.

    Attributes:
        seen: the steps of the plan.
        parts: of each of them, the arguments of each branch.
        schedule: timestep, sigma and the models called, of all steps.
        changes: what differs from `parts[plan.zero]` while the latents are 0, by position.
        scalings: what the scheduler does to latents before the model sees them; not done here, so that digits stay whole.
    """

    def __init__(self, first: Opening, batching: Batching, plan: Plan) -> None:
        super().__init__(first)
        self.plan, self._batching, self._steps, self._first = plan, batching, first.steps, first
        self.seen: list[Step] = []
        self.parts: list[list[Arguments]] = []
        self.schedule: list[tuple[float, float | None, list[str]]] = []
        self.changes: dict[Key, History] = {}
        self.scalings = Scalings()
        self._equal: dict[Key, Any] = {}  # the last that was as in the reference: most are in the same memory
        self._lent: tuple[tuple[int, torch.Size, torch.dtype], Lent] | None = None

    def predictions(self) -> Sequence[Tensor]:
        """Those of the plan."""
        return self.plan.feeds[self._number(len(self.schedule))].predictions

    def scale(self, own: Callable[[Tensor], Tensor], sample: Tensor) -> Tensor:
        """Note what the scheduler would do, and leave it out."""
        self.scalings.note(own, sample, len(self.schedule))
        return sample

    def step(self, seen: Step, previous: Tensor) -> Tensor:
        """Note what was seen, and go on with the next step of the plan."""
        super().step(seen, previous)
        calls = seen.calls[-len(self._first.rows) :]
        if (len(seen.calls) != len(calls) and self.schedule) or len(calls) < len(self._first.rows):
            raise WiringError(
                f"step {len(self.schedule)} makes {len(seen.calls)} forwards, the first makes {len(self._first.rows)}"
            )
        self._note(seen, split_calls([c.arguments for c in calls], self._first.rows, self._batching))
        self.schedule.append((seen.timestep, seen.sigma, [c.model for c in calls]))
        if len(self.schedule) == self._steps:
            raise Done
        return self._latents(previous)

    def _latents(self, previous: Tensor) -> Tensor:
        """Those of the plan, in the form of `previous`."""
        number = self._number(len(self.schedule))
        latents = self.plan.feeds[number].latents
        if latents is None or latents.numel() != previous.numel():
            raise WiringError("the latents change their size between steps")
        key = number, previous.shape, previous.dtype
        if self._lent is None or self._lent[0] != key:
            self._lent = key, Lent(lambda: latents.reshape(previous.shape).to(previous, copy=True))
        given: Tensor = self._lent[1]()
        return given

    def _number(self, position: int) -> int:
        """Of the plan's feed for a step."""
        return position if position < len(self.plan.feeds) else self.plan.zero

    def _note(self, seen: Step, parts: list[Arguments]) -> None:
        position = len(self.schedule)
        if position < len(self.plan.feeds):
            self.seen.append(replace(seen, sample=kept(seen.sample), model_output=kept(seen.model_output)))
            self.parts.append(parts)
            return
        for branch, (arguments, reference) in enumerate(zip(parts, self.parts[self.plan.zero], strict=True)):
            old = leaves(reference)
            new = leaves(arguments)
            if old.keys() != new.keys():
                raise WiringError(f"argument {min(old.keys() ^ new.keys())} comes or goes at step {position}")
            for path, leaf in new.items():
                self._note_leaf((branch, path), leaf, old[path])

    def _note_leaf(self, key: Key, leaf: Any, reference: Any) -> None:
        if key not in self.changes:
            if same(leaf, self._equal.get(key, reference)):
                self._equal[key] = leaf
                return
            self.changes[key] = History(key[1], reference, self._steps)
        self.changes[key].note(len(self.schedule), leaf)


def split_calls(calls: Sequence[Arguments], rows: Sequence[int], batching: Batching) -> list[Arguments]:
    """The arguments of each branch of guidance, whether branches are calls, or rows of one."""
    return [part for arguments, n in zip(calls, rows, strict=True) for part in batching.split(arguments, n)]
