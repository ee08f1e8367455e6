"""What a student is finetuned towards: the data, the teacher, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import NonNegativeFloat, model_validator
from torch import Tensor, nn

from surgery.config import Config
from surgery.errors import RecipeError
from surgery.training.imitate import PREDICTION, Blocks, Imitation, Watched, blocks_to_imitate
from surgery.training.source import Forward, Source, predict


class Target(Config):
    """What is learnt, each part by its weight.

    Attributes:
        data: the noise (or sample, or velocity) that was put into the data.
        teacher: its prediction; the squared error over the variance.
        blocks: every tensor that each of its blocks returns; the mean of the squared errors over the variances.
    """

    data: NonNegativeFloat = 1.0
    teacher: NonNegativeFloat = 1.0
    blocks: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _is_something(self) -> Self:
        if not (self.data or self.teacher or self.blocks):
            raise ValueError("all weights are 0, so nothing is learnt; give one")
        return self

    def require(self, blocks: Blocks) -> None:
        """Raise RecipeError if nothing is learnt where these blocks are all that can be imitated."""
        if not (self.data or self.teacher or blocks):
            raise RecipeError(
                "finetune.target: no block of the student can be compared with its teacher's, so nothing is learnt; "
                "give data or teacher a weight"
            )

    def imitated(self, teacher: nn.Module, student: nn.Module, batches: Source) -> Blocks:
        """All blocks that can be imitated, if any are."""
        return blocks_to_imitate(teacher, student, batches.training(0)[0].inputs) if self.blocks else {}


TargetName = Literal["data", "teacher"]
NAMED: dict[str, Target] = {"data": Target(teacher=0, blocks=0), "teacher": Target(data=0)}


class Objective:
    """The loss of a student by its target.

    Args:
        target: what is learnt.
        teacher: only read, and only if it is part of the target.
        student: its student.
        run: what is called: the student, or its compiled form.
        blocks: those that are imitated, see `surgery.training.imitate`.
        batches: on the first of which the teacher's variances are measured; None takes all for 1.
    """

    def __init__(
        self,
        target: Target,
        teacher: nn.Module,
        student: nn.Module,
        run: Callable[..., Any],
        blocks: Blocks,
        batches: Source | None,
    ) -> None:
        self._target, self._run = target, run
        imitates = bool(target.teacher or target.blocks)
        measured = batches.training(0) if imitates and batches is not None else None
        self._imitation = Imitation(teacher, blocks, measured) if imitates else None
        self._watched = Watched(student, blocks)

    def loss(self, forward: Forward) -> Tensor:
        """That of one forward, a scalar.

        Raises:
            RecipeError: it has no part, as no call of a block that is imitated can be told whose it is.
        """
        target, imitation = self._target, self._imitation
        taught = imitation.taught(forward.inputs) if imitation is not None else {}
        with self._watched.open() as learnt:
            prediction = predict(self._run, forward.inputs)
        terms: list[Tensor] = [target.data * forward.loss(prediction)] if target.data else []
        if imitation is not None:
            error, blocks = imitation.errors(taught, {PREDICTION: prediction, **learnt})
            terms += [target.teacher * error] if target.teacher else []
            terms += [target.blocks * blocks] if blocks is not None else []
        if not terms:
            target.require({})
        return sum(terms[1:], terms[0])

    def close(self) -> None:
        """Leave both models alone."""
        self._watched.close()
        if self._imitation is not None:
            self._imitation.close()
