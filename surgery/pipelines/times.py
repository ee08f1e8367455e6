"""Which positions of a schedule to train on, and how much each counts."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor

from surgery.pipelines.process import Process

Density = Literal["uniform", "logit-normal", "mode"]
LossWeight = Literal["none", "min-snr", "sigma", "cosmap"]

MIN_SNR_GAMMA = 5.0
"""Of Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", arXiv 2303.09556."""


def drawn_positions(density: Density, samples: int, positions: int, generator: torch.Generator) -> Tensor:
    """Random positions of a schedule, (samples,), int64.

    A density is one of u in [0, 1] along the schedule; as the schedule's own steps are shifted, so is what is drawn.
    "logit-normal" and "mode" are those of Esser et al., arXiv 2403.03206, with m = 0, s = 1 and a mode scale of 1.29.
    """
    scheme = {"uniform": "none", "logit-normal": "logit_normal", "mode": "mode"}[density]
    u: Tensor = compute_density_for_timestep_sampling(
        scheme, samples, logit_mean=0.0, logit_std=1.0, mode_scale=1.29, generator=generator
    )
    return (u * positions).long().clamp(0, positions - 1)


def loss_weights(kind: LossWeight, process: Process, positions: Tensor) -> Tensor:
    """The factor of each sample's loss, (samples,), float32.

    "min-snr" weighs errors of the clean latents by min(SNR, 5). "sigma" (sigma^-2) and "cosmap" are those of
    Esser et al., arXiv 2403.03206.
    """
    if kind == "none":
        return torch.ones(len(positions))
    if kind == "min-snr":
        weights = process.snr(positions).clamp(max=MIN_SNR_GAMMA) * process.gain(positions) ** 2
    else:
        scheme = {"sigma": "sigma_sqrt", "cosmap": "cosmap"}[kind]
        weights = compute_loss_weighting_for_sd3(scheme, process.sigmas[positions])
    return weights.float()
