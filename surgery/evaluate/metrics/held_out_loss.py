"""How well a model predicts on data that it was not trained on."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import Metric
from surgery.evaluate.results import Better
from surgery.training.batches import HELD_OUT_SHARE, Batches
from surgery.training.data import LatentDataset
from surgery.training.diffusion import denoising_loss, predict


class HeldOutLoss(Metric):
    """The diffusion loss on the data held out from training, a mean squared error; the same noise for every model.

    Attributes:
        draws: how often each held-out sample is noised; more of them make the figure steadier.
    """

    kind: Literal["held_out_loss"] = "held_out_loss"
    title: ClassVar[str] = "held-out loss"
    better: ClassVar[Better] = "lower"

    draws: PositiveInt = 8

    def check(self, data: LatentDataset, samples: int) -> str | None:  # noqa: ARG002
        """Refuse data of which none are held out."""
        few = len(data) < HELD_OUT_SHARE
        return f"of {len(data)} samples none is held out; give at least {HELD_OUT_SHARE}" if few else None

    @torch.inference_mode()
    def compute(self, context: Context) -> float:
        """See `Metric`."""
        batches = Batches(
            context.data,
            context.scheduler,
            context.model,
            stage="evaluate",
            batch_size=context.held_out,
            seed=context.seed,
        )
        noised = [batch for draw in range(self.draws) if (batch := batches.held_out(draw)) is not None]
        losses = [denoising_loss(predict(context.model, b.inputs).to(b.target.dtype), b).item() for b in noised]
        return sum(losses) / len(losses)
