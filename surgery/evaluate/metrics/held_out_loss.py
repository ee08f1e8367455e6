"""How well a model predicts on data that it was not trained on."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import PositiveInt

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import Metric
from surgery.evaluate.results import Better
from surgery.store.order import HELD_OUT_SHARE
from surgery.training.source import TrainingData, batch_loss


class HeldOutLoss(Metric):
    """The diffusion loss on the data held out from training, a mean squared error; the same noise for every model.

    Attributes:
        draws: how often each held-out sample is noised; more of them make the figure steadier.
    """

    kind: Literal["held_out_loss"] = "held_out_loss"
    title: ClassVar[str] = "held-out loss"
    better: ClassVar[Better] = "lower"
    note: ClassVar[str] = (
        "Diffusion loss on data that no stage trained on, with the same noise and times for every model: models differ "
        "by no draw, but by few data."
    )

    draws: PositiveInt = 8

    def check(self, data: TrainingData, samples: int) -> str | None:  # noqa: ARG002
        """Refuse data too few for any to be held out; how many of more are different is known once they are made."""
        few = len(data) < HELD_OUT_SHARE
        return f"of {len(data)} samples none is held out; give at least {HELD_OUT_SHARE}" if few else None

    def compute(self, context: Context) -> float:
        """See `Metric`; no number where nothing is held out."""
        batches = context.data.source(context.model, stage="evaluate", batch_size=context.held_out, seed=context.seed)
        drawn = map(batches.held_out, range(self.draws))
        losses = [batch_loss(context.model, batch) for batch in drawn if batch]
        return sum(losses) / len(losses) if losses else math.nan
