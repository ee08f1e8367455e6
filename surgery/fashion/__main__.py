"""Train `fashion-dit` and its feature extractor, measure them, and write all files that are shipped."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from surgery.data import read_fashion
from surgery.data.fashion import DEBIAN
from surgery.device import require_device
from surgery.digits.bench import REFERENCE
from surgery.digits.classifier import train_classifier
from surgery.digits.data import Labelled
from surgery.digits.train import build_model, build_scheduler, install
from surgery.evaluate.frechet import fit_gaussian
from surgery.fashion.card import measure, write_card
from surgery.fashion.train import ARCHITECTURE, Clock, Training, train

EPOCHS = 10
"""Of the feature extractor."""
MINUTE = 60


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `arguments` default to the process's own."""
    options = parser().parse_args(arguments)
    require_device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    training = Training(
        steps=options.steps, minutes=options.minutes, batch_size=options.batch_size, compiled=not options.eager
    )
    pictures = on(options.device, read_fashion(options.data))
    write_classifier(options.out, pictures, options.epochs)
    clock = write_model(options.out, pictures, training, options.device)
    figures = measure(options.out, pictures, on(options.device, read_fashion(options.data, "t10k")), options.samples)
    write_card(options.out, training, clock, figures)


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    made = argparse.ArgumentParser(prog="python -m surgery.fashion", description=__doc__)
    made.add_argument("--data", type=Path, default=DEBIAN, help="folder of the idx files (default: %(default)s)")
    made.add_argument("--out", type=Path, default=Path("runs/fashion-dit"), help="folder (default: %(default)s)")
    made.add_argument("--device", default="cpu", help="where to train (default: %(default)s)")
    made.add_argument("--steps", type=int, default=Training.steps, help="of training (default: %(default)s)")
    made.add_argument("--minutes", type=float, help="of training, instead of steps")
    made.add_argument("--batch-size", type=int, default=Training.batch_size, help="(default: %(default)s)")
    made.add_argument("--epochs", type=int, default=EPOCHS, help="of the feature extractor (default: %(default)s)")
    made.add_argument("--samples", type=int, default=1000, help="to judge by, of each draw (default: %(default)s)")
    made.add_argument("--eager", action="store_true", help="do not compile")
    return made


def on(device: str, pictures: tuple[Tensor, Tensor]) -> Labelled:
    """The pictures on a device."""
    images, labels = pictures
    return Labelled(images.to(device), labels.to(device))


def write_classifier(folder: Path, pictures: Labelled, epochs: int) -> None:
    """Train the feature extractor, and save it with the features of all pictures as a Gaussian."""
    classifier = train_classifier(pictures, epochs=epochs, batch_size=256)
    save_file(classifier.state_dict(), folder / "features.safetensors")
    with torch.inference_mode():
        features = torch.cat([classifier.features(images) for images in torch.split(pictures.images, 1000)])
    save_file(vars(fit_gaussian(features.cpu())), folder / REFERENCE)
    print("feature extractor: done", flush=True)


def write_model(folder: Path, pictures: Labelled, training: Training, device: str) -> Clock:
    """Train the denoiser and save it with its scheduler, meanwhile each minute."""
    model, scheduler = build_model(training.seed, ARCHITECTURE).to(device), build_scheduler()
    scheduler.save_pretrained(folder)
    clock = train(model, scheduler, pictures, training, keeper(folder, copy.deepcopy(model).cpu()))
    save(folder, model)
    print(f"{clock.step} steps in {clock.seconds:.0f} s", flush=True)
    return clock


def save(folder: Path, model: Any) -> None:
    """Write the weights in bfloat16."""
    model.bfloat16().save_pretrained(folder)
    model.float()


def keeper(folder: Path, twin: nn.Module) -> Callable[[Clock, Tensor, dict[str, Tensor]], None]:
    """An `on_step` of `train` that each minute saves the averaged weights, put into `twin`, and prints the loss."""
    kept = 0

    def on_step(clock: Clock, loss: Tensor, average: dict[str, Tensor]) -> None:
        nonlocal kept
        if clock.seconds < (kept + 1) * MINUTE:
            return
        kept += 1
        print(f"step {clock.step}  loss {loss.item():.4f}  {clock.seconds:.0f} s", flush=True)
        install(twin, [tensor.cpu() for tensor in average.values()])
        save(folder, twin)

    return on_step


if __name__ == "__main__":
    main()
