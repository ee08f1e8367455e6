"""The Frechet Inception distance."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.fidelity import Fidelity
from surgery.evaluate.results import Better


class Fid(Fidelity):
    """The Frechet distance of Inception features to those of real pictures (Heusel et al. 2017)."""

    kind: Literal["fid"] = "fid"
    title: ClassVar[str] = "FID"
    better: ClassVar[Better] = "lower"
    note: ClassVar[str] = (
        "Frechet distance of Inception features to those of real pictures. It falls with the number of samples: compare "
        "figures of equally many only."
    )
    serving: ClassVar[frozenset[str]] = frozenset({"mu", "sigma"})

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        samples = _precise(fid_features_to_statistics(self.features_of(context)))
        (distance,) = fid_statistics_to_metric(samples, self._real_statistics(), verbose=False).values()
        return float(distance)

    def _real_statistics(self) -> dict[str, Any]:
        from torch_fidelity.metric_fid import fid_features_to_statistics

        if self.reference.is_file():
            content = np.load(self.reference)
            if self.serving <= set(content):
                return _precise({"mu": content["mu"], "sigma": content["sigma"]})
        return _precise(fid_features_to_statistics(self.real_features()))


def _precise(statistics: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value, dtype=np.float64) for name, value in statistics.items()}
