"""How samples are drawn."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from surgery.config import Config


class Sampling(Config):
    """How samples are drawn to judge a model by, and for the grids.

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


PROTOCOL = Sampling()
"""The defaults, by which the digits are judged."""
