"""What a forward pass costs."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import Metric
from surgery.evaluate.results import Better
from surgery.tracing import trace


class Flops(Metric):
    """Floating-point operations of one forward of one sample."""

    kind: Literal["flops"] = "flops"
    title: ClassVar[str] = "FLOPs"
    unit: ClassVar[str] = "count"
    better: ClassVar[Better] = "lower"
    note: ClassVar[str] = "Counted for one forward of one sample, a multiplication and an addition being two: exact."

    def compute(self, context: Context) -> int:
        """See `Metric`."""
        return trace(context.model, context.inputs).flops
