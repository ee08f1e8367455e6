"""How much of what is real the samples cover (Kynkaanniemi et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.fidelity import Fidelity
from surgery.evaluate.metrics.precision import precision_and_recall
from surgery.evaluate.results import Better


class Recall(Fidelity):
    """The share of real pictures, 0 to 1, that lie among the samples."""

    kind: Literal["recall"] = "recall"
    title: ClassVar[str] = "recall"
    unit: ClassVar[str] = "share"
    better: ClassVar[Better] = "higher"
    note: ClassVar[str] = "The share of real pictures that lie among the samples: how varied they are."

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        return precision_and_recall(self, context)["recall"]
