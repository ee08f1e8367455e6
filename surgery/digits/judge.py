"""The one protocol by which every model of the digits is judged.

1,000 samples with balanced labels, 25 DDIM steps from fixed noise, no guidance, clamped to [-1, 1]; their features
against those of all 1,797 real images. Finite sets give a Frechet distance above zero even when both come from one
distribution: the excess falls roughly like 1/N + 1/M with the sizes N and M of the sets. Two halves of the real data
(898 and 899) therefore start from a larger excess than 1,000 samples against 1,797 images, by a factor of about 1.43;
`size_ratio` says how much of the distance between halves the sizes alone explain.

Shapes: N samples, M real images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from surgery.digits.classifier import DigitClassifier, accuracy, load_classifier
from surgery.errors import RecipeError
from surgery.evaluate.frechet import fit_gaussian, frechet_distance, gaussian_distance
from surgery.evaluate.sample import balanced_labels, sample
from surgery.evaluate.sampling import PROTOCOL
from surgery.store.order import seeded
from surgery.training.data import LatentDataset, load_data
from surgery.training.scheduler import Scheduler


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
    """Judges samples against the real images, in the features of a classifier.

    Attributes:
        classifier: gives the features.
        real: the real images (M, 1, 8, 8) with their labels.
        features: (M, F), those of the real images.
    """

    def __init__(self, classifier: DigitClassifier, real: LatentDataset) -> None:
        self.classifier = classifier
        self.real = real
        with torch.inference_mode():
            self.features = classifier.features(real.latents)
        self._gaussian = fit_gaussian(self.features)

    def judge(self, samples: Tensor, labels: Tensor) -> Quality:
        """How good samples (N, 1, 8, 8) of the classes `labels` (N,) are.

        Raises:
            SurgeryError: see `frechet`.
        """
        clamped = samples.clamp(-1, 1)
        return Quality(
            frechet=self.frechet(samples),
            class_accuracy=accuracy(self.classifier, clamped, labels),
            nearest=float(nearest_distances(clamped, self.real.latents).mean()),
        )

    def frechet(self, samples: Tensor) -> float:
        """The Frechet distance of samples (N, 1, 8, 8), clamped to [-1, 1], to the real images.

        Raises:
            SurgeryError: N is not larger than F, or a sample is not finite.
        """
        with torch.inference_mode():
            features_NF = self.classifier.features(samples.clamp(-1, 1))
        return gaussian_distance(fit_gaussian(features_NF), self._gaussian)

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
        return nearest_distances(self.real.latents, self.real.latents, skip_self=True)


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


@lru_cache(maxsize=4)
def judge_for(data: str) -> Judge:
    """The judge of models of `data` (see `load_data`), with the shipped classifier.

    Raises:
        RecipeError: the classifier cannot read the data: it knows 8x8 digits.
    """
    real = load_data(data)
    if real.latents.shape[1:] != (1, 8, 8):
        raise RecipeError(
            f"data {data!r} has latents of shape {tuple(real.latents.shape[1:])}: "
            "the Frechet distance is measured in features of 8x8 digits, so use latents of shape (1, 8, 8)"
        )
    return Judge(load_classifier(), real)


def evaluate_samples(
    model: nn.Module,
    scheduler: Scheduler,
    *,
    samples: int = PROTOCOL.samples,
    steps: int = PROTOCOL.steps,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The samples (N, 1, 8, 8) that the protocol judges, and their labels (N,); see `sample`."""
    labels = balanced_labels(samples)
    return sample(model, scheduler, labels, seed=seed, steps=steps), labels
