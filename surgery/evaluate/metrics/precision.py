"""How many samples look real (Kynkaanniemi et al. 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.fidelity import Fidelity
from surgery.evaluate.results import Better

NEIGHBOURS = 3


class Precision(Fidelity):
    """The share of samples, 0 to 1, that lie among real pictures: nearer to one than its third neighbour."""

    kind: Literal["precision"] = "precision"
    title: ClassVar[str] = "precision"
    unit: ClassVar[str] = "share"
    better: ClassVar[Better] = "higher"
    note: ClassVar[str] = "The share of samples that lie among real pictures: how real they look, not how varied."

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        return precision_and_recall(self, context)["precision"]


def precision_and_recall(metric: Fidelity, context: Context) -> dict[str, float]:
    """Both, by name; a neighbourhood reaches to the third neighbour, as in the paper."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    samples, real = metric.features_of(context), metric.real_features()
    nearest = min(NEIGHBOURS, len(samples) - 1, len(real) - 1)
    found: dict[str, float] = prc_features_to_metric(
        samples, real, prc_neighborhood=nearest, save_cpu_ram=True, verbose=False
    )
    return found
