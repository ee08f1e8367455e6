"""The Kernel Inception distance."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.fidelity import Fidelity
from surgery.evaluate.results import Better

SUBSET = 1000


class Kid(Fidelity):
    """The squared maximum mean discrepancy of Inception features to those of real pictures (Binkowski et al. 2018)."""

    kind: Literal["kid"] = "kid"
    title: ClassVar[str] = "KID"
    better: ClassVar[Better] = "lower"
    note: ClassVar[str] = (
        "Squared distance of Inception features to those of real pictures; on average the same for any number of samples."
    )

    def compute(self, context: Context) -> float:
        """See `Metric`; the mean over subsets of 1,000, or fewer if there are not so many."""
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

        samples, real = self.features_of(context), self.real_features()
        size = min(SUBSET, len(samples), len(real))
        return float(kid_features_to_metric(samples, real, kid_subset_size=size, verbose=False)[KEY_METRIC_KID_MEAN])
