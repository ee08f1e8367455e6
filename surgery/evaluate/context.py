"""What a metric may look at: one model of a run, and all that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from surgery.data.generated import Prompt
from surgery.evaluate.sampling import Drawn
from surgery.training.source import TrainingData


@dataclass
class Context:
    """One model to be judged. Samples are drawn when a metric first asks for them.

    Shapes: N samples, ... the latents of one; of the digits (C, H, W), channels and latent size.

    Attributes:
        teacher: the pretrained model.
        model: the model to be judged; at the stage "teacher" it is the teacher.
        prompts: what each of the N samples is asked to be, a text or the label of a class.
        data: the data of the recipe, and how they are noised.
        held_out: so many of the data, at most, are trained on by neither stage.
        inputs: keywords of the model's forward for one sample of the data, on the model's device.
        seed: of the recipe.
        draw: gives the samples of a model, from the same noise for each model.
        shared: what metrics of one kind have computed of the model for each other, by a key of their own.
    """

    teacher: nn.Module
    model: nn.Module
    prompts: Sequence[Prompt]
    data: TrainingData
    held_out: int
    inputs: dict[str, Any]
    seed: int
    draw: Callable[[nn.Module], Drawn]
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def samples(self) -> Tensor:
        """The model's samples (N, ...), float32 on the CPU."""
        return self._drawn.latents

    @property
    def pictures(self) -> Sequence[Image.Image]:
        """What the model's samples look like; of a video, its first frame."""
        return self._drawn.pictures

    @cached_property
    def teacher_samples(self) -> Tensor:
        """The teacher's samples (N, ...), float32 on the CPU, from the same noise."""
        return self.samples if self.model is self.teacher else self.draw(self.teacher).latents

    @property
    def labels(self) -> Tensor:
        """The class that each sample is asked to be of, (N,) int64, where the pipeline takes classes."""
        return torch.tensor([int(prompt) for prompt in self.prompts])

    @cached_property
    def _drawn(self) -> Drawn:
        return self.draw(self.model)
