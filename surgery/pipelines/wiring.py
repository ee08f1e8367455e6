"""How a pipeline feeds its denoiser, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines import store
from surgery.pipelines.affine import Affine
from surgery.pipelines.batching import Batching
from surgery.pipelines.parts import Branch, Condition, Schedule
from surgery.pipelines.scaling import Scaling
from surgery.pipelines.tree import Arguments, leaves, moved, prediction, rows_of, same, with_leaves


@dataclass(frozen=True)
class Wiring:
    """How latents, a position in the schedule and a condition become the arguments of a pipeline's denoiser.

    Attributes:
        pipeline: its class.
        shape: of the latents of one sample, without the dimension that counts samples.
        dtype: of the latents.
        copies: how often the scheduler's sample holds the latents.
        scaling: what the scheduler does to latents before they become arguments; None if they stay as they are.
        schedule: what positions mean.
        branches: of guidance; see `conditional` and `unconditional`.
        linear: whether the scheduler gets the predictions' sum by the branches' weights.
        read: one prediction to the model output, in the layout of the latents.
        batching: along what samples are joined.
        conditions: of the call that was measured, by branch.
    """

    pipeline: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    copies: int
    scaling: Scaling | None
    schedule: Schedule
    branches: tuple[Branch, ...]
    linear: bool
    read: Affine
    batching: Batching
    conditions: tuple[Condition, ...]

    @property
    def conditional(self) -> int:
        """The branch that guidance moves towards: the one with the largest weight."""
        return max(range(len(self.branches)), key=lambda branch: self.branches[branch].weight)

    @property
    def unconditional(self) -> int | None:
        """The branch that guidance moves away from; None without guidance."""
        least = min(range(len(self.branches)), key=lambda branch: self.branches[branch].weight)
        return least if least != self.conditional else None

    def arguments_of(self, latents: Tensor, position: int, condition: Condition) -> Arguments:
        """The keywords of the denoiser's forward for one sample.

        Args:
            latents: of `shape`, z_t in the layout of the scheduler.
            position: in the schedule.
            condition: of the branch to run.

        Raises:
            WiringError: the latents have another shape.
        """
        if tuple(latents.shape) != self.shape:
            raise WiringError(
                f"latents of shape {tuple(latents.shape)} where the wiring is of {self.shape}: measure it anew"
            )
        branch, flat = self.branches[condition.branch], self._scaled(latents, position)

        def value(path: str, leaf: Any) -> Any:
            if path in branch.latents:
                return branch.latents[path](flat, leaf)
            return branch.times[path].at(position) if path in branch.times else leaf

        arguments: Arguments = with_leaves(condition.arguments, value)
        return arguments

    def _scaled(self, latents: Tensor, position: int) -> Tensor:
        """The latents as the scheduler lets the pipeline have them, flat."""
        flat = latents.to(self.dtype).reshape(-1)
        return flat if self.scaling is None else self.scaling(flat, position)

    def model_at(self, position: int, branch: int = 0) -> str:
        """The name of the component to run; pipelines with experts have several."""
        return self.branches[branch].models[position]

    def model_output(self, output: Any, samples: int = 1) -> Tensor:
        """What the scheduler calls the model's output, without guidance.

        Args:
            output: of a forward for `samples` samples of one branch.
            samples: how many.

        Returns:
            (samples, *shape): signs turned and variances dropped as the pipeline does. Gradients pass.
        """
        return self.read(rows_of(prediction(output), samples))

    def guided(self, outputs: Sequence[Tensor]) -> Tensor:
        """The sum of all branches' model outputs by their weights, as the pipeline forms it.

        Raises:
            WiringError: the pipeline's guidance is no such sum.
        """
        if not self.linear:
            raise WiringError("the pipeline's guidance is no weighted sum of its predictions")
        return sum(
            (b.weight * out for b, out in zip(self.branches, outputs, strict=True)), torch.zeros_like(outputs[0])
        )

    def conditions_of(self, parts: Sequence[Arguments]) -> tuple[Condition, ...]:
        """The conditions in the arguments of all branches of one step, one sample each."""
        pairs = zip(self.branches, parts, strict=True)
        return tuple(Condition(number, with_leaves(part, partial(_kept, b))) for number, (b, part) in enumerate(pairs))

    def with_conditions(self, parts: Sequence[Arguments]) -> Wiring:
        """The wiring with the conditions of the step that `parts` are the arguments of."""
        return replace(self, conditions=self.conditions_of(parts))

    def require(self, arguments: Arguments, latents: Tensor | None, position: int, condition: Condition) -> None:
        """Check that a real run's `arguments` are what the wiring gives, to the bit.

        Without `latents`, what comes from them is not looked at.

        Raises:
            WiringError: one is not; it is named.
        """
        branch, given, real = self.branches[condition.branch], leaves(condition.arguments), leaves(arguments)
        for path in sorted((given.keys() | real.keys()) - branch.latents.keys()):
            own = branch.times[path].at(position) if path in branch.times else given.get(path)
            if path not in given or path not in real or not same(own, real[path]):
                raise WiringError(
                    f"argument {path} of {self.pipeline} changes at position {position} with more than the time: "
                    "with the latents besides, or by chance; record trajectories instead"
                )
        if latents is not None:
            self.require_latents(arguments, self._scaled(latents, position), condition)

    def require_latents(self, arguments: Arguments, scaled: Tensor, condition: Condition) -> None:
        """Check that what comes from the latents in a real run's `arguments` is what the wiring gives, to the bit.

        Args:
            arguments: of the run.
            scaled: the latents as its scheduler gives them to the pipeline.
            condition: of the branch.

        Raises:
            WiringError: an argument is not; it is named.
        """
        given, real, flat = leaves(condition.arguments), leaves(arguments), scaled.to(self.dtype).reshape(-1)
        for path, affine in self.branches[condition.branch].latents.items():
            if path not in real or not same(affine(flat, given[path]), real[path]):
                raise WiringError(
                    f"argument {path} of {self.pipeline} is not what the latents give: measure the wiring anew, or "
                    "record trajectories instead"
                )

    def to(self, device: torch.device | str) -> Wiring:
        """The same wiring with its maps, tables and conditions on another device."""
        branches = tuple(
            replace(
                branch,
                latents={path: affine.to(device) for path, affine in branch.latents.items()},
                times={path: table.to(device) for path, table in branch.times.items()},
            )
            for branch in self.branches
        )
        conditions = tuple(Condition(c.branch, moved(c.arguments, device)) for c in self.conditions)
        scaling = None if self.scaling is None else self.scaling.to(device)
        return replace(self, scaling=scaling, branches=branches, read=self.read.to(device), conditions=conditions)

    def save(self, folder: str | Path) -> None:
        """Write wiring.json and wiring.safetensors into `folder`, whole or not at all.

        Raises:
            WiringError: a condition holds an object that is neither plain data nor a tensor.
            SurgeryError: the files cannot be written.
        """
        store.save({field.name: getattr(self, field.name) for field in fields(self)}, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> Wiring:
        """Read what `save` wrote.

        Raises:
            WiringError: it is missing or damaged.
        """
        found = store.load(Path(folder))
        if found.keys() != {field.name for field in fields(Wiring)}:
            raise WiringError(f"{folder} holds no wiring: measure it anew")
        return Wiring(**found)


def _kept(branch: Branch, path: str, leaf: Any) -> Any:
    """What of an argument is a condition."""
    if path in branch.latents:
        return leaf.reshape(-1)[branch.latents[path].fixed].clone()
    return None if path in branch.times else leaf
