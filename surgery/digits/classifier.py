"""The digit classifier whose penultimate features the Frechet distance is measured in.

Shapes: B batch size, F = 48 features, 10 classes. Images are (B, 1, 8, 8) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from surgery.digits import FOLDER
from surgery.digits.data import Digits
from surgery.errors import ArtifactError
from surgery.store.order import seeded

FILE = FOLDER / "features.safetensors"
FEATURES = 48
HELD_OUT = 360


class DigitClassifier(nn.Module):
    """A small convolutional classifier of 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.GELU(),
        )
        self.embed = nn.Linear(64 * 4 * 4, FEATURES)
        self.classify = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """The features (B, F) of images (B, 1, 8, 8) in [-1, 1]."""
        return F.gelu(self.embed(self.convolutions(images).flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """The logits (B, 10) of images (B, 1, 8, 8) in [-1, 1]."""
        logits: Tensor = self.classify(self.features(images))
        return logits


def load_classifier(file: Path = FILE) -> DigitClassifier:
    """The classifier in `file`, frozen, in eval mode.

    Raises:
        ArtifactError: the file is missing or altered.
    """
    classifier = DigitClassifier()
    try:
        classifier.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"feature extractor {file} cannot be read ({reason}): "
            "install surgery again, or retrain it with `python -m surgery.digits`"
        ) from error
    return classifier.eval().requires_grad_(False)


def held_out_split(digits: Digits) -> tuple[Digits, Digits]:
    """The fixed split of the digits into training images and `HELD_OUT` held-out ones."""
    order = torch.randperm(len(digits.labels), generator=seeded("features", "split"))
    return digits.select(order[HELD_OUT:]), digits.select(order[:HELD_OUT])


def accuracy(classifier: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    """The share, 0 to 1, of images (N, 1, 8, 8) that the classifier assigns to labels (N,)."""
    with torch.inference_mode():
        return float((classifier(images).argmax(1) == labels).double().mean())


def train_classifier(digits: Digits, *, seed: int = 0, epochs: int = 40) -> DigitClassifier:
    """A classifier trained on `digits` from `seed`, with shifts and slight noise; frozen, in eval mode."""
    torch.manual_seed(seed)
    classifier = DigitClassifier()
    steps = epochs * len(digits.labels) // 64
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        generator = seeded(seed, "features", step)
        batch = digits.select(torch.randint(len(digits.labels), (64,), generator=generator))
        images = _augmented(batch.images, generator)
        loss = F.cross_entropy(classifier(images), batch.labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return classifier.eval().requires_grad_(False)


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift half of the images by at most one pixel, and add noise of standard deviation 0.05 to all."""
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    shifts = torch.randint(3, (len(images), 2), generator=generator)
    shifts[torch.rand(len(images), generator=generator) < 0.5] = 1
    shifted = [image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, shifts.tolist(), strict=True)]
    return torch.stack(shifted) + 0.05 * torch.randn(images.shape, generator=generator)
