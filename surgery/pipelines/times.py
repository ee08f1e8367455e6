"""Which positions of a schedule to train on, and how much each counts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, PositiveFloat, SerializeAsAny
from torch import Tensor

from surgery.kinds import Kinded
from surgery.pipelines.process import Process

STEEPEST_MODE = 2 / (math.pi - 2)


class Density(Kinded, ABC):
    """How the times are spread that are trained on.

    A time runs from 0, clean latents, to 1, noise, along the pipeline's own schedule: as the scheduler shifts its steps,
    so is what is drawn.
    """

    @abstractmethod
    def quantile(self, share: Tensor) -> Tensor:
        """The time below which `share`, from 0 to 1, of all times lie, elementwise; rising or falling throughout."""

    def draw(self, samples: int, positions: int, generator: torch.Generator) -> Tensor:
        """Random positions of a schedule of so many, the noisiest being 0: (samples,), int64.

        Each is drawn from the density, together they are spread evenly over it, so that batches differ less in what they
        ask for: Kingma et al., "Variational Diffusion Models", arXiv 2107.00630, appendix I.1.
        """
        start = torch.rand(1, generator=generator, dtype=torch.float64)
        times = self.quantile((start + torch.arange(samples, dtype=torch.float64) / samples) % 1)
        return ((1 - times) * positions).long().clamp(0, positions - 1)


class Uniform(Density):
    """All positions alike."""

    kind: Literal["uniform"] = "uniform"

    def quantile(self, share: Tensor) -> Tensor:
        """See `Density`."""
        return share


class LogitNormal(Density):
    """log(t / (1 - t)) is normal: Esser et al., arXiv 2403.03206, equation 19.

    Attributes:
        mean: above 0 for more noise.
        std: the smaller, the closer to the mean.
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: PositiveFloat = 1.0

    def quantile(self, share: Tensor) -> Tensor:
        """See `Density`."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(share))


class Mode(Density):
    """Heavier in the middle, without giving up the ends: Esser et al., arXiv 2403.03206, equation 20.

    Attributes:
        scale: 0 is uniform; below 0 the ends are heavier.
    """

    kind: Literal["mode"] = "mode"
    scale: float = Field(default=1.29, ge=-1, le=STEEPEST_MODE)

    def quantile(self, share: Tensor) -> Tensor:
        """See `Density`."""
        return 1 - share - self.scale * (torch.cos(math.pi / 2 * share) ** 2 - 1 + share)


class LossWeight(Kinded, ABC):
    """How much the squared error of the model's output counts at each position."""

    @abstractmethod
    def at(self, process: Process, positions: Tensor) -> Tensor:
        """The factor of each sample's error, (samples,), float64."""

    def misfit(self, process: Process) -> str | None:
        """Why a process has no such weights; None if it has."""
        weights = self.at(process, torch.arange(len(process.sigmas)))
        return None if bool(weights.isfinite().all()) else "is not finite at every time of this scheduler"


class MinSNR(LossWeight):
    """Errors of the clean latents count by min(SNR, gamma): Hang et al., arXiv 2303.09556, equation 6.

    Attributes:
        gamma: the paper's 5.
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma: PositiveFloat = 5.0

    def at(self, process: Process, positions: Tensor) -> Tensor:
        """See `LossWeight`."""
        return process.snr(positions).clamp(max=self.gamma) * process.gain(positions) ** 2


class _OfFlow(LossWeight):
    def misfit(self, process: Process) -> str | None:
        """See `LossWeight`."""
        if "flow" not in process.kind:
            return f"is made for flows, and this scheduler's process is {process.kind}"
        return super().misfit(process)


class Sigma(_OfFlow):
    """sigma^-2, of the noise's share sigma: as diffusers' examples train Stable Diffusion 3."""

    kind: Literal["sigma"] = "sigma"

    def at(self, process: Process, positions: Tensor) -> Tensor:
        """See `LossWeight`."""
        return process.sigmas[positions] ** -2


class CosMap(_OfFlow):
    """2 / (pi (1 - 2 sigma + 2 sigma^2)), the cosine schedule's density: Esser et al., arXiv 2403.03206, equation 21."""

    kind: Literal["cosmap"] = "cosmap"

    def at(self, process: Process, positions: Tensor) -> Tensor:
        """See `LossWeight`."""
        sigma = process.sigmas[positions]
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))


AnyDensity = Annotated[SerializeAsAny[Density], BeforeValidator(Density.from_data)]
"""A pydantic field for any density; read back from JSON as the class of its kind."""

AnyLossWeight = Annotated[SerializeAsAny[LossWeight], BeforeValidator(LossWeight.from_data)]
"""A pydantic field for any weight; read back from JSON as the class of its kind."""
