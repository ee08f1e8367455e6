"""What only models of the digits can be judged by."""

from __future__ import annotations

from typing import ClassVar, Literal

from surgery.digits.classifier import FEATURES, accuracy, load_classifier
from surgery.digits.judge import Judge
from surgery.evaluate.context import Context
from surgery.evaluate.metrics import Metric
from surgery.evaluate.results import Better
from surgery.training.batches import LatentData
from surgery.training.source import TrainingData

SHAPE = (1, 8, 8)
"""Of an image of a digit, as the classifier reads it."""


class DigitsFrechet(Metric):
    """The Frechet distance between features of the samples and of the data (Heusel et al. 2017), see `Judge`."""

    kind: Literal["frechet"] = "frechet"
    title: ClassVar[str] = "Frechet distance"
    better: ClassVar[Better] = "lower"

    def check(self, data: TrainingData, samples: int) -> str | None:
        """Refuse data that are no digits, and fewer samples than a covariance of the features needs."""
        if samples <= FEATURES:
            return f"{samples} samples are too few in {FEATURES} features: use at least {FEATURES + 1}"
        return not_digits(data)

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        assert isinstance(context.data, LatentData), "`check` refuses other data"
        return Judge(load_classifier(), context.data.dataset).frechet(context.samples)


class DigitsAccuracy(Metric):
    """The share of samples, 0 to 1, that the classifier assigns to the class asked for."""

    kind: Literal["accuracy"] = "accuracy"
    title: ClassVar[str] = "class accuracy"
    unit: ClassVar[str] = "share"
    better: ClassVar[Better] = "higher"

    def check(self, data: TrainingData, samples: int) -> str | None:  # noqa: ARG002
        """Refuse data that are no digits."""
        return not_digits(data)

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        return accuracy(load_classifier(), context.samples.clamp(-1, 1), context.labels)


METRICS: tuple[Metric, ...] = (DigitsFrechet(), DigitsAccuracy())
"""What models of digits are judged by, unless a recipe says otherwise."""


def not_digits(data: TrainingData) -> str | None:
    """Why the classifier cannot read the data, None if it can."""
    if not isinstance(data, LatentData):
        return "it knows 8x8 digits; the data are of a pipeline"
    shape = tuple(data.dataset.latents.shape[1:])
    return None if shape == SHAPE else f"it knows 8x8 digits, latents of shape {SHAPE}; the data have shape {shape}"
