"""What a recipe says about judging a model."""

from __future__ import annotations

from pydantic import field_validator

from surgery.evaluate.metrics import AnyMetric
from surgery.evaluate.results import OWN
from surgery.evaluate.sampling import Sampling


class Evaluate(Sampling):
    """How each stage is judged; see `Sampling`. Parameters, FLOPs and latency are measured whatever the metrics.

    Attributes:
        metrics: what is measured; the first is the one that the report speaks of. None takes what fits the data: of the
            digits the Frechet distance and the class accuracy, else the distance to the teacher and, before it, the loss
            on held-out samples, if there are enough to hold one out.
    """

    metrics: tuple[AnyMetric, ...] | None = None

    @field_validator("metrics")
    @classmethod
    def _have_names_of_their_own(cls, metrics: tuple[AnyMetric, ...] | None) -> tuple[AnyMetric, ...] | None:
        """Each is a key in `metrics.json`."""
        names = list(OWN)
        for metric in metrics or ():
            if metric.name in names:
                raise ValueError(f"the name {metric.name!r} must stand once; leave one out, or give it another name")
            names.append(metric.name)
        return metrics
