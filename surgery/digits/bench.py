"""The embedded models, each with its data and what its samples are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from surgery.data import Data, FashionMNIST, read_fashion
from surgery.data.base import FASHION
from surgery.digits import FOLDER
from surgery.digits.classifier import load_classifier
from surgery.digits.data import Labelled, load_digits
from surgery.digits.judge import Judge, shipped_judge
from surgery.digits.pipeline import DigitsPipeline, FashionPipeline
from surgery.errors import ArtifactError, first_line
from surgery.evaluate.frechet import Gaussian
from surgery.training.source import TrainingData
from surgery.training.wired import WiredData

REFERENCE = "reference.safetensors"


@dataclass(frozen=True)
class Bench:
    """A small trained model, small enough to be shipped.

    Attributes:
        model: its built-in name.
        folder: where its weights and its classifier lie.
        side: pixels of a picture along each side.
        pipeline: of the model, and of others of these pictures.
    """

    model: str
    folder: Path
    side: int
    pipeline: type[DigitsPipeline]

    @cached_property
    def judge(self) -> Judge:
        """By which samples are judged; of clothes it needs none of the real pictures.

        Raises:
            ArtifactError: a file is missing or damaged.
        """
        if self.pipeline is DigitsPipeline:
            return shipped_judge()
        classifier = load_classifier(self.folder / "features.safetensors", self.side)
        return Judge(classifier, load_reference(self.folder / REFERENCE))


DIGITS = Bench("digits-dit", FOLDER, 8, DigitsPipeline)
FASHION_MNIST = Bench("fashion-dit", FOLDER.parent / "fashion", 28, FashionPipeline)
BENCHES = (DIGITS, FASHION_MNIST)


def load_pictures(data: str | FashionMNIST) -> Labelled:
    """The pictures that a recipe calls `data`.

    Raises:
        RecipeError: there are none.
    """
    return Labelled(*read_fashion(data.folder)) if isinstance(data, FashionMNIST) else load_digits()


def bench_of(data: str | Data) -> Bench | None:
    """The bench whose data a recipe calls `data`; None if they are of a pipeline."""
    if isinstance(data, FashionMNIST) or data == FASHION:
        return FASHION_MNIST
    return None if isinstance(data, Data) else DIGITS


def bench_judging(data: TrainingData) -> Bench | None:
    """The bench that can judge models of `data`; None if none can."""
    pipeline = data.wiring.pipeline if isinstance(data, WiredData) else None
    return next((bench for bench in BENCHES if bench.pipeline.__name__ == pipeline), None)


def load_reference(file: Path) -> Gaussian:
    """The features of the real pictures in `file`.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        return Gaussian(**load_file(file))
    except (OSError, SafetensorError, TypeError) as error:
        raise ArtifactError(f"features {file} cannot be read ({first_line(error)}): install surgery again") from error
