"""How far a model's samples are from its teacher's."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import Metric
from surgery.evaluate.results import Better


class TeacherDistance(Metric):
    """The root mean square of the difference to the teacher's samples from the same noise, in units of the latents."""

    kind: Literal["teacher_distance"] = "teacher_distance"
    title: ClassVar[str] = "distance to teacher"
    better: ClassVar[Better] = "lower"
    note: ClassVar[str] = (
        "Root mean square of the difference to the teacher's samples from the same noise, so 0 for the teacher. It says "
        "how alike the samples are, not how good."
    )

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        return (context.samples - context.teacher_samples).square().mean().sqrt().item()
