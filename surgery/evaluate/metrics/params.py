"""How many parameters a model has."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import Metric
from surgery.evaluate.results import Better


class Params(Metric):
    """The number of parameters; a shared one counts once."""

    kind: Literal["params"] = "params"
    title: ClassVar[str] = "parameters"
    unit: ClassVar[str] = "count"
    better: ClassVar[Better] = "lower"
    note: ClassVar[str] = "Counted, a shared one once: exact."

    def compute(self, context: Context) -> int:
        """See `Metric`."""
        return sum(parameter.numel() for parameter in context.model.parameters())
