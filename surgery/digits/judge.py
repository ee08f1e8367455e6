"""The one protocol by which every model of the digits, or of clothes, is judged.

1,000 samples with balanced labels, 25 DDIM steps from fixed noise, no guidance, clamped to [-1, 1]; their features
against those of all 1,797 real images. Finite sets give a Frechet distance above zero even when both come from one
distribution: the excess falls roughly like 1/N + 1/M with the sizes N and M of the sets. Two halves of the real data
(898 and 899) therefore start from a larger excess than 1,000 samples against 1,797 images, by a factor of about 1.43;
`size_ratio` says how much of the distance between halves the sizes alone explain.

Shapes: N samples, M real images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from surgery.digits.classifier import Classifier, accuracy, load_classifier
from surgery.digits.data import CLASSES, Labelled, load_digits
from surgery.digits.pipeline import DigitsPipeline
from surgery.evaluate.frechet import Gaussian, fit_gaussian, frechet_distance, gaussian_distance
from surgery.store.order import seeded

SAMPLES, STEPS = 1000, 25
"""Of the protocol."""
PORTION = 50
"""Samples that a processor draws at a time: what lies between the layers of more does not fit its cache."""


@dataclass(frozen=True)
class Quality:
    """How good a set of samples is.

    Attributes:
        frechet: Frechet distance to the real images.
        class_accuracy: share of the samples, 0 to 1, that are classified as asked.
        nearest: mean Euclidean distance (64 pixels in [-1, 1]) from a sample to the nearest real image.
    """

    frechet: float
    class_accuracy: float
    nearest: float


class Judge:
    """Judges samples in the features of a classifier, on its device.

    Attributes:
        classifier: gives the features.
        reference: those of the real images, as a Gaussian.
    """

    def __init__(self, classifier: Classifier, reference: Gaussian) -> None:
        self.classifier = classifier
        self.reference = reference

    def frechet(self, samples: Tensor) -> float:
        """The Frechet distance of samples (N, 1, S, S), clamped to [-1, 1], to the real images.

        Raises:
            SurgeryError: N is not larger than F, or a sample is not finite.
        """
        with torch.inference_mode():
            features_NF = self.classifier.features(self._clamped(samples))
        return gaussian_distance(fit_gaussian(features_NF.cpu()), self.reference)

    def accuracy(self, samples: Tensor, labels: Tensor) -> float:
        """The share, 0 to 1, of samples (N, 1, S, S), clamped to [-1, 1], that are seen as their classes (N,)."""
        clamped = self._clamped(samples)
        return accuracy(self.classifier, clamped, labels.to(clamped.device))

    def _clamped(self, samples: Tensor) -> Tensor:
        return samples.to(self.classifier.embed.weight.device).clamp(-1, 1)


class RealJudge(Judge):
    """A judge with the real images at hand.

    Attributes:
        real: the M real images.
        features: (M, F), those of the real images.
    """

    def __init__(self, classifier: Classifier, real: Labelled) -> None:
        self.real = real
        with torch.inference_mode():
            self.features = classifier.features(real.images)
        super().__init__(classifier, fit_gaussian(self.features))

    def judge(self, samples: Tensor, labels: Tensor) -> Quality:
        """How good samples (N, 1, S, S) of the classes `labels` (N,) are.

        Raises:
            SurgeryError: see `frechet`.
        """
        return Quality(
            frechet=self.frechet(samples),
            class_accuracy=self.accuracy(samples, labels),
            nearest=float(nearest_distances(samples.clamp(-1, 1), self.real.images).mean()),
        )

    def real_split_distance(self, splits: int = 20) -> float:
        """The Frechet distance between two random halves of the real images, the mean over fixed splits."""
        half = len(self.features) // 2
        distances = []
        for i in range(splits):
            order = torch.randperm(len(self.features), generator=seeded("split", i))
            distances.append(frechet_distance(self.features[order[:half]], self.features[order[half:]]))
        return sum(distances) / splits

    def real_nearest(self) -> Tensor:
        """The distance (M,) from each real image to the nearest other one."""
        return nearest_distances(self.real.images, self.real.images, skip_self=True)


def size_ratio(samples: int, real: int) -> float:
    """(1/samples + 1/real) over the same for two halves of `real`, all of them numbers of images."""
    return (1 / samples + 1 / real) / (1 / (real // 2) + 1 / (real - real // 2))


def nearest_distances(samples: Tensor, images: Tensor, *, skip_self: bool = False) -> Tensor:
    """The Euclidean distance (N,) from each of samples (N, ...) to the nearest of images (M, ...).

    With `skip_self` both sets are the same and image i is not compared with itself.
    """
    distances_NM = torch.cdist(samples.flatten(1), images.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    if skip_self:
        distances_NM.fill_diagonal_(torch.inf)
    return distances_NM.amin(1)


@cache
def shipped_judge() -> RealJudge:
    """The judge with all real digits and the shipped classifier."""
    return RealJudge(load_classifier(), load_digits())


def evaluate_samples(
    model: nn.Module, scheduler: Any, *, samples: int = SAMPLES, steps: int = STEPS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The samples (N, 1, S, S) that the protocol judges, and their labels (N,).

    Sample i starts from noise that depends on `seed` and i alone, as those of a run do.
    """
    labels = torch.arange(samples) % CLASSES
    pipeline = DigitsPipeline(model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    portions = torch.split(torch.arange(samples), PORTION if next(model.parameters()).device.type == "cpu" else samples)
    drawn = [
        pipeline(
            labels[portion].tolist(),
            num_inference_steps=steps,
            generator=[seeded(seed, "sample", number) for number in portion],
            output_type="latent",
        ).images
        for portion in portions
    ]
    return torch.cat(drawn).float().cpu(), labels
