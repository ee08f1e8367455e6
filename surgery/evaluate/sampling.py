"""How samples are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from surgery.config import Config
from surgery.data.generated import Prompt


class Sampling(Config):
    """How samples are drawn by the pipeline to judge a model by, and for the grids.

    Attributes:
        samples: number of samples; None draws as many as the metrics need, see `Metric.usual_samples`.
        steps: of the pipeline's scheduler.
        guidance: scale of classifier-free guidance, the pipeline's `guidance_scale`; None leaves that as it is.
        batch_size: samples at a time, where the pipeline makes several at once.
    """

    samples: PositiveInt | None = None
    steps: PositiveInt = 25
    guidance: float | None = Field(default=None, ge=0)
    batch_size: PositiveInt = 8


@dataclass(frozen=True)
class Drawn:
    """Samples of a model.

    Attributes:
        latents: (N, ...), float32 on the CPU.
        pictures: of each sample; of a video, its first frame. None where there is nothing to see.
    """

    latents: Tensor
    pictures: Sequence[Image.Image]


class Sampler(Protocol):
    """Draws samples of a model; each starts from noise that depends on the seed and its number alone."""

    def prompts(self, samples: int) -> list[Prompt]:
        """What each of so many samples is asked to be; none where the pipeline is asked for nothing."""

    def require(self, settings: Sampling) -> None:
        """Refuse settings that the pipeline has no keyword for.

        Raises:
            RecipeError: it has none.
        """

    def draw(
        self, model: nn.Module, count: int, settings: Sampling, seed: int, advance: Callable[[int], None]
    ) -> Drawn:
        """`count` samples of `model`; `advance` is called with how many more are done."""
