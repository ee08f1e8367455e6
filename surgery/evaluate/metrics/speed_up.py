"""How many times as fast a model is as its teacher."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.latency import Latency, latencies_ms
from surgery.evaluate.results import Better


class SpeedUp(Latency):
    """The teacher's time for one forward of one sample over the model's, both measured in turns; see `Latency`."""

    kind: Literal["speed_up"] = "speed_up"  # type: ignore[assignment]
    title: ClassVar[str] = "speed-up"
    unit: ClassVar[str] = "x"
    better: ClassVar[Better] = "higher"
    note: ClassVar[str] = "The teacher's time over the model's, measured in turns, so that what else runs slows both."

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        if context.model is context.teacher:
            return 1.0
        teacher, own = latencies_ms([context.teacher, context.model], context.inputs, compiled=self.compiled)
        return teacher / own
