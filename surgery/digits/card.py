"""Measure a trained `digits-dit` and write its model card."""

from __future__ import annotations

from pathlib import Path

from diffusers import DDPMScheduler, DiTTransformer2DModel

from surgery.digits import FOLDER
from surgery.digits.classifier import accuracy, held_out_split, load_classifier
from surgery.digits.data import load_digits
from surgery.digits.judge import SAMPLES, STEPS, RealJudge, evaluate_samples, nearest_distances, size_ratio
from surgery.digits.train import Training

TEMPLATE = FOLDER / "card_template.md"


def write_card(folder: Path, training: Training) -> None:
    """Measure the model and the feature extractor in `folder`, and write its README.md."""
    model, scheduler = DiTTransformer2DModel.from_pretrained(folder), DDPMScheduler.from_pretrained(folder)
    classifier = load_classifier(folder / "features.safetensors")
    judge = RealJudge(classifier, load_digits())
    images, labels = evaluate_samples(model.eval(), scheduler)
    quality = judge.judge(images, labels)
    nearest = nearest_distances(images.clamp(-1, 1), judge.real.images)
    real_nearest = judge.real_nearest()
    near = float(real_nearest.quantile(0.05))
    split = judge.real_split_distance()
    _, held_out = held_out_split(judge.real)
    text = TEMPLATE.read_text().format(
        **vars(training),
        parameters=sum(p.numel() for p in model.parameters()),
        samples=SAMPLES,
        ddim_steps=STEPS,
        features=judge.features.shape[1],
        classifier=accuracy(classifier, *held_out),
        held_out=len(held_out.labels),
        real=len(judge.real.labels),
        frechet=quality.frechet,
        split=split,
        ratio=quality.frechet / split,
        class_accuracy=quality.class_accuracy,
        nearest=quality.nearest,
        nearest_median=nearest.median(),
        real_nearest=real_nearest.mean(),
        real_nearest_median=real_nearest.median(),
        near=near,
        copies=(nearest < near).double().mean(),
        size_ratio=size_ratio(SAMPLES, len(judge.real.labels)),
    )
    (folder / "README.md").write_text(text)
    print(f"Frechet distance {quality.frechet:.3f}, between halves of the real images {split:.3f}", flush=True)
