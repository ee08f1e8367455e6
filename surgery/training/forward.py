"""One forward of samples of a pipeline, and its loss.

Shapes: B samples, ... the latents of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgery.pipelines.process import Process
from surgery.pipelines.tree import Arguments, prediction, rows_of
from surgery.pipelines.variance import hybrid_term
from surgery.pipelines.wiring import Wiring


@dataclass(frozen=True)
class Taught:
    """What the loss of some samples rests on, in the layout of the latents; float32.

    Attributes:
        latents: (B, ...).
        noised: z_t, (B, ...).
        target: what the model output should be, (B, ...).
        positions: in the schedule, (B,).
        weights: of the samples' errors, (B,).
    """

    latents: Tensor
    noised: Tensor
    target: Tensor
    positions: Tensor
    weights: Tensor

    def of(self, rows: Sequence[int], device: torch.device) -> Taught:
        """Those of some samples, on a device."""
        parts = (self.latents, self.noised, self.target, self.positions, self.weights)
        return Taught(*(part[list(rows)].to(device) for part in parts))


@dataclass(frozen=True)
class WiredForward:
    """One forward of B samples; see `surgery.training.source.Forward`.

    Attributes:
        inputs: the keywords.
        share: of the batch's samples.
        taught: of the samples.
        wiring: tells the model output from what the model returns.
        process: what the samples are noised by.
        variance: which elements of a prediction tell the variance, where that is trained; see `variance_elements`.
    """

    inputs: Arguments
    share: float
    taught: Taught
    wiring: Wiring
    process: Process
    variance: Tensor | None = None

    def loss(self, output: Any) -> Tensor:
        """The mean over the samples, a scalar, of the squared error of the model output by its weight; with what trains a
        learned variance, where the model has one."""
        taught, samples = self.taught, len(self.taught.target)
        given = self.wiring.model_output(output, samples).to(taught.target.dtype)
        errors = (given - taught.target).square().flatten(1).mean(1) * taught.weights
        rows = rows_of(prediction(output), samples)
        if self.variance is not None and rows.shape[1] == 2 * self.variance.numel():
            shares = rows[:, self.variance].reshape(given.shape).to(given.dtype)
            errors = errors + hybrid_term(self.process, shares, given, taught.noised, taught.latents, taught.positions)
        return errors.mean()
