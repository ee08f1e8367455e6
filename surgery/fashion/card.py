"""Measure a trained `fashion-dit` and write its model card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from surgery.digits.bench import REFERENCE, load_reference
from surgery.digits.classifier import load_classifier
from surgery.digits.data import Labelled
from surgery.digits.judge import STEPS, Judge, evaluate_samples, nearest_distances
from surgery.digits.pipeline import pictures_of
from surgery.evaluate.grid import grid_png
from surgery.fashion.train import Clock, Training
from surgery.models import load_pretrained

DRAWS = 5
"""Sets of samples, each from other noise."""
SHOWN = 100
TEMPLATE = Path(__file__).parent / "card_template.md"


@dataclass(frozen=True)
class Figures:
    """What was measured of a model.

    Attributes:
        parameters: of the model.
        samples: in each of `DRAWS` draws.
        frechet, class_accuracy: of each draw.
        floor: the Frechet distances of held-out pictures, so many as `samples` at a time.
        classifier: the share of held-out pictures that are classified right.
        nearest, real_nearest: the distances to the nearest training picture, of samples and of held-out pictures, mean.
        near: below it lie the nearest 5 % of held-out pictures.
        copies: the share of samples nearer than that.
        device: what it was measured on.
    """

    parameters: int
    samples: int
    frechet: list[float]
    class_accuracy: list[float]
    floor: list[float]
    classifier: float
    nearest: float
    real_nearest: float
    near: float
    copies: float
    device: str


def measure(folder: Path, real: Labelled, held_out: Labelled, samples: int) -> Figures:
    """Judge the model in `folder` by its classifier, and draw a picture of samples.

    Args:
        folder: of the files.
        real: the training pictures, on the device to work on.
        held_out: others, there as well.
        samples: of each draw.
    """
    device = real.images.device
    pretrained = load_pretrained(str(folder), str(device))
    classifier = load_classifier(folder / "features.safetensors", real.images.shape[-1]).to(device)
    judge = Judge(classifier, load_reference(folder / REFERENCE))
    draws = [evaluate_samples(pretrained.model, pretrained.scheduler, samples=samples, seed=s) for s in range(DRAWS)]
    (folder / "samples.png").write_bytes(grid_png(pictures_of(draws[0][0][:SHOWN])))
    nearest = _nearest(draws[0][0].to(device).clamp(-1, 1), real)
    real_nearest = _nearest(held_out.images[:samples], real)
    near = float(real_nearest.quantile(0.05))
    return Figures(
        parameters=sum(p.numel() for p in pretrained.model.parameters()),
        samples=samples,
        frechet=[judge.frechet(images) for images, _ in draws],
        class_accuracy=[judge.accuracy(images, labels) for images, labels in draws],
        floor=[judge.frechet(part) for part in torch.split(held_out.images, samples) if len(part) == samples],
        classifier=judge.accuracy(held_out.images, held_out.labels),
        nearest=float(nearest.mean()),
        real_nearest=float(real_nearest.mean()),
        near=near,
        copies=float((nearest < near).double().mean()),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )


def _nearest(images: Tensor, real: Labelled) -> Tensor:
    """The Euclidean distance (N,) of each of images (N, 1, S, S) to the nearest real one, a hundred at a time."""
    return torch.cat([nearest_distances(part, real.images) for part in torch.split(images, 100)]).cpu()


def write_card(folder: Path, training: Training, clock: Clock, figures: Figures) -> None:
    """Write README.md, and metrics.json with all that it was made from."""
    content: dict[str, Any] = {**vars(training), **vars(figures), "steps": clock.step, "seconds": clock.seconds}
    (folder / "metrics.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "README.md").write_text(card_of(content))
    print(f"Frechet distance {fmean(figures.frechet):.3f}, of held-out pictures {fmean(figures.floor):.3f}", flush=True)


def card_of(content: dict[str, Any]) -> str:
    """The card of what `write_card` puts into metrics.json."""
    spread = {f"{name}_mean": fmean(content[name]) for name in ("frechet", "class_accuracy", "floor")}
    spread |= {f"{name}_deviation": stdev(content[name]) for name in ("frechet", "floor")}
    limit = f"--minutes {content['minutes']:g}" if content["minutes"] else f"--steps {content['steps']}"
    return TEMPLATE.read_text().format(**content, **spread, limit=limit, draws=DRAWS, ddim_steps=STEPS)
