"""What a recipe says about judging a model."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from surgery.config import Config


class Evaluate(Config):
    """How samples are drawn for the Frechet distance and the grids.

    Attributes:
        samples: number of samples, with balanced labels.
        steps: DDIM steps.
        guidance: scale of classifier-free guidance; 1 is none.
        batch_size: samples at a time.
    """

    samples: PositiveInt = 1000
    steps: PositiveInt = 25
    guidance: float = Field(default=1.0, ge=0)
    batch_size: PositiveInt = 250
