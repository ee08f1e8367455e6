"""How samples are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from surgery.config import Config


class Sampling(Config):
    """How samples are drawn to judge a model by, and for the grids.

    Of a pipeline, the samples are made one by one, and guidance is a keyword of the pipeline's own.

    Attributes:
        samples: number of samples, with balanced labels.
        steps: of the pipeline's scheduler, or of DDIM for latents.
        guidance: scale of classifier-free guidance; 1 is none.
        batch_size: samples at a time.
    """

    samples: PositiveInt = 1000
    steps: PositiveInt = 25
    guidance: float = Field(default=1.0, ge=0)
    batch_size: PositiveInt = 250


PROTOCOL = Sampling()
"""The defaults, by which the digits are judged."""


@dataclass(frozen=True)
class Drawn:
    """Samples of a model.

    Attributes:
        latents: (N, ...), float32 on the CPU.
        pictures: of each sample, for a grid; none where there is nothing to see.
    """

    latents: Tensor
    pictures: Sequence[Image.Image]


class Sampler(Protocol):
    """Draws samples of a model; each starts from noise that depends on the seed and its number alone."""

    def draw(self, model: nn.Module, settings: Sampling, seed: int, advance: Callable[[int], None]) -> Drawn:
        """The samples; `advance` is called with how many more are done."""
