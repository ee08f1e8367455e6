"""How well a model predicts on data that it was not trained on."""

from __future__ import annotations

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
        """Refuse data of which none are held out."""
        few = len(data) < HELD_OUT_SHARE
        return f"of {len(data)} samples none is held out; give at least {HELD_OUT_SHARE}" if few else None

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        batches = context.data.source(context.model, stage="evaluate", batch_size=context.held_out, seed=context.seed)
        return sum(batch_loss(context.model, batches.held_out(draw)) for draw in range(self.draws)) / self.draws
