"""The classifier whose penultimate features the Frechet distance is measured in.

Shapes: B batch size, S pixels a side, 8 of digits and 28 of Fashion-MNIST, F = 48 features, 10 classes. Images are
(B, 1, S, S) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from surgery.digits import FOLDER
from surgery.digits.data import Labelled
from surgery.errors import ArtifactError, first_line
from surgery.store.order import seeded

FILE = FOLDER / "features.safetensors"
FEATURES = 48
HELD_OUT = 360


class Classifier(nn.Module):
    """A small convolutional classifier of pictures of `side` x `side` pixels; larger ones are halved twice."""

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        last = 1 if side == 8 else 2
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1, stride=last),
            nn.GELU(),
        )
        self.embed = nn.Linear(64 * (side // 2 // last) ** 2, FEATURES)
        self.classify = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """The features (B, F) of images (B, 1, S, S) in [-1, 1]."""
        return F.gelu(self.embed(self.convolutions(images).flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """The logits (B, 10) of images (B, 1, S, S) in [-1, 1]."""
        logits: Tensor = self.classify(self.features(images))
        return logits


def load_classifier(file: Path = FILE, side: int = 8) -> Classifier:
    """The classifier in `file`, of pictures of `side` x `side` pixels, frozen, in eval mode.

    Raises:
        ArtifactError: the file is missing or altered.
    """
    classifier = Classifier(side)
    try:
        classifier.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"feature extractor {file} cannot be read ({first_line(error)}): "
            f"install surgery again, or retrain it with `python -m surgery.{file.parent.name}`"
        ) from error
    return classifier.eval().requires_grad_(False)


def held_out_split(digits: Labelled) -> tuple[Labelled, Labelled]:
    """The fixed split of the digits into training images and `HELD_OUT` held-out ones."""
    order = torch.randperm(len(digits.labels), generator=seeded("features", "split"))
    return digits.select(order[HELD_OUT:]), digits.select(order[:HELD_OUT])


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share, 0 to 1, of images (N, 1, S, S) that the classifier assigns to labels (N,)."""
    with torch.inference_mode():
        return float((classifier(images).argmax(1) == labels).double().mean())


def train_classifier(digits: Labelled, *, seed: int = 0, epochs: int = 40, batch_size: int = 64) -> Classifier:
    """A classifier trained on `digits` from `seed`, with shifts and slight noise; frozen, in eval mode."""
    torch.manual_seed(seed)
    count, device = len(digits.labels), digits.images.device
    classifier = Classifier(digits.images.shape[-1]).to(device)
    steps = epochs * count // batch_size
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        generator = seeded(seed, "features", step)
        batch = digits.select(torch.randint(count, (batch_size,), generator=generator).to(device))
        images = _augmented(batch.images, generator)
        loss = F.cross_entropy(classifier(images), batch.labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return classifier.eval().requires_grad_(False)


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift half of the images by at most one pixel, and add noise of standard deviation 0.05 to all."""
    count, _, side, _ = images.shape
    shifts = torch.randint(3, (count, 2), generator=generator)
    shifts[torch.rand(count, generator=generator) < 0.5] = 1
    windows = F.pad(images, (1, 1, 1, 1), value=-1.0).unfold(2, side, 1).unfold(3, side, 1)
    y, x = shifts.to(images.device).unbind(1)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return windows[torch.arange(count, device=images.device), :, y, x] + 0.05 * noise
