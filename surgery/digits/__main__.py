"""Retrain `digits-dit` and its feature extractor from the seed, and write all files that are shipped."""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file

from surgery.digits.card import write_card
from surgery.digits.classifier import accuracy, held_out_split, train_classifier
from surgery.digits.data import load_digits
from surgery.digits.train import Training, build_model, build_scheduler, printer, train


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `arguments` default to the process's own."""
    parser = argparse.ArgumentParser(prog="python -m surgery.digits", description=__doc__)
    parser.add_argument("--steps", type=int, default=Training.steps, help="training steps (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/digits-dit"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    training = Training(steps=options.steps)
    write_classifier(options.out)
    write_model(options.out, training)
    write_card(options.out, training)


def write_classifier(folder: Path) -> None:
    """Train the feature extractor and save it."""
    fit, held_out = held_out_split(load_digits())
    classifier = train_classifier(fit)
    save_file(classifier.state_dict(), folder / "features.safetensors")
    held_out_accuracy = accuracy(classifier, *held_out)
    print(f"feature extractor: held-out accuracy {held_out_accuracy:.4f}", flush=True)


def write_model(folder: Path, training: Training) -> None:
    """Train the denoiser and save it with its scheduler."""
    model, scheduler = build_model(training.seed), build_scheduler()
    train(model, scheduler, load_digits(), training, printer(50, training.steps))
    model.save_pretrained(folder)
    scheduler.save_pretrained(folder)


if __name__ == "__main__":
    main()
