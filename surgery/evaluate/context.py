"""What a metric may look at: one model of a run, and all that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from surgery.training.source import TrainingData


@dataclass
class Context:
    """One model to be judged. Samples are drawn when a metric first asks for them.

    Shapes: N samples, ... the latents of one; of the digits (C, H, W), channels and latent size.

    Attributes:
        teacher: the pretrained model.
        model: the model to be judged; at the stage "teacher" it is the teacher.
        labels: (N,) int64, the class that each sample is asked to be of; samples of a pipeline have prompts instead.
        data: the data of the recipe, and how they are noised.
        held_out: so many of the data, at most, are trained on by neither stage, see `surgery.training.batches`.
        inputs: keywords of the model's forward for one sample of the data, on the model's device.
        seed: of the recipe.
        draw: gives the samples (N, ...) of a model, float32 on the CPU, from the same noise for each model.
    """

    teacher: nn.Module
    model: nn.Module
    labels: Tensor
    data: TrainingData
    held_out: int
    inputs: dict[str, Any]
    seed: int
    draw: Callable[[nn.Module], Tensor]

    @cached_property
    def samples(self) -> Tensor:
        """The model's samples (N, ...), float32 on the CPU."""
        return self.draw(self.model)

    @cached_property
    def teacher_samples(self) -> Tensor:
        """The teacher's samples (N, ...), float32 on the CPU, from the same noise."""
        return self.samples if self.model is self.teacher else self.draw(self.teacher)
