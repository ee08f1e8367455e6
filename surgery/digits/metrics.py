"""What only models of the digits, and of clothes, can be judged by."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.digits.bench import bench_judging
from surgery.digits.classifier import FEATURES
from surgery.digits.judge import SAMPLES, Judge
from surgery.evaluate.context import Context
from surgery.evaluate.metrics import Metric
from surgery.evaluate.results import Better
from surgery.training.source import TrainingData


class DigitsFrechet(Metric):
    """The Frechet distance between features of the samples and of the real ones (Heusel et al. 2017), see `Judge`."""

    kind: Literal["frechet"] = "frechet"
    title: ClassVar[str] = "Frechet distance"
    better: ClassVar[Better] = "lower"
    note: ClassVar[str] = (
        "Between features of the samples and of the real pictures. One draw of 1,000 samples has a standard deviation of "
        "about 8 %, the ratio of two models from the same noise one of about 4 %: smaller differences mean nothing."
    )
    usual_samples: ClassVar[int] = SAMPLES

    def check(self, data: TrainingData, samples: int) -> str | None:
        """Refuse models of other data, and fewer samples than a covariance of the features needs."""
        if samples <= FEATURES:
            return f"{samples} samples are too few in {FEATURES} features: use at least {FEATURES + 1}"
        return not_digits(data)

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        return judge_of(context.data).frechet(context.samples)


class DigitsAccuracy(Metric):
    """The share of samples, 0 to 1, that the classifier assigns to the class asked for."""

    kind: Literal["accuracy"] = "accuracy"
    title: ClassVar[str] = "class accuracy"
    unit: ClassVar[str] = "share"
    better: ClassVar[Better] = "higher"
    note: ClassVar[str] = (
        "The share of samples that a classifier sees as the class asked for. Of 1,000 samples at 97 % it has a standard "
        "deviation of half a point."
    )

    def check(self, data: TrainingData, samples: int) -> str | None:  # noqa: ARG002
        """Refuse models of other data."""
        return not_digits(data)

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        return judge_of(context.data).accuracy(context.samples, context.labels)


METRICS: tuple[Metric, ...] = (DigitsFrechet(), DigitsAccuracy())
"""What models of digits and of clothes are judged by, unless a recipe says otherwise."""


def judge_of(data: TrainingData) -> Judge:
    """What judges the samples of models of `data`; one of the benches' own, see `not_digits`."""
    bench = bench_judging(data)
    assert bench is not None, "metrics are checked before a run"
    return bench.judge


def not_digits(data: TrainingData) -> str | None:
    """Why no classifier can read the samples of models of `data`, None if one can."""
    if bench_judging(data) is not None:
        return None
    return "it knows handwritten digits and clothes, and the model is of other data"
