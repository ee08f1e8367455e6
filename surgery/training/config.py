"""What both stages let a user set."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from surgery.config import Config
from surgery.pipelines.times import AnyDensity, Uniform
from surgery.training.held import Held
from surgery.training.optim import warmup_constant, warmup_cosine
from surgery.training.source import Noising


class StageConfig(Config):
    """What both stages let a user set.

    Attributes:
        steps: updates of the weights; 0 leaves the stage out.
        batch_size: samples in a step.
        micro_batch: the most samples of one forward, whose gradients are added up over a step: less memory, the same
            update; None lets all samples share a forward that can.
        lr: the largest learning rate.
        optimizer: the paper trains with "adamw"; "muon" gets further in a short training, see `surgery.training.optim`.
        warmup: steps in which the learning rate rises to `lr`.
        schedule: what follows: down to 0 along half a "cosine", which a short training gains from, or "constant".
        clip: the largest norm of the gradient of all parameters; a larger one is scaled down to it.
        times: how the times are spread that are trained on.
        checkpoint_every: steps from one checkpoint and held-out loss to the next.
        sample_every: steps from one grid of samples to the next, the first before any step; None draws none.
        teacher_weights: holds the teacher in less memory while the student learns from it: in 8 bits ("int8") or 4 bits
            ("nf4"), or in the host's memory ("offload"), see `surgery.training.held`. The student stays exact.
        compile: runs new operators, and what of the teacher is between them, or in stage 2 the student through
            `torch.compile`: faster steps, after minutes for a large model.
    """

    steps: NonNegativeInt
    batch_size: PositiveInt = 64
    micro_batch: PositiveInt | None = None
    lr: PositiveFloat
    optimizer: Literal["adamw", "muon"] = "adamw"
    warmup: NonNegativeInt = 20
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: PositiveFloat
    times: AnyDensity = Uniform()
    checkpoint_every: PositiveInt = 50
    sample_every: PositiveInt | None = None
    teacher_weights: Held | None = None
    compile: bool = False

    @property
    def noising(self) -> Noising:
        """How its batches are noised."""
        return Noising(self.times, None, self.micro_batch)

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        if self.schedule == "constant":
            return warmup_constant(step, self.lr, self.warmup)
        return warmup_cosine(step, self.lr, self.warmup, self.steps)
