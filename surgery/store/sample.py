"""What a store holds, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from surgery.errors import RecipeError


@dataclass(frozen=True)
class Sample:
    """One training sample.

    Attributes:
        latents: x0, of any shape.
        conditions: whatever else the model is given: tensors and plain data in dicts, lists and tuples.
    """

    latents: Tensor
    conditions: Any


def require_finite(sample: Sample, name: str) -> Sample:
    """The sample, of which `name` tells a user where it is from.

    Raises:
        RecipeError: its latents hold NaN or an infinity.
    """
    if not bool(torch.isfinite(sample.latents).all()):
        raise RecipeError(f"data: {name}: its latents are not finite; repair it or take it out")
    return sample


class Skipped(Exception):
    """Raised by a source instead of giving a sample that cannot be made; its text names the sample and says why."""


class Source(Protocol):
    """Samples that can be made anew at any time, by number, always the same."""

    def __len__(self) -> int:
        """How many there are, those included that turn out to be `Skipped`."""

    def __getitem__(self, number: int) -> Sample:
        """Make the sample.

        Raises:
            Skipped: it cannot be made; the store goes on with the next one.
        """
