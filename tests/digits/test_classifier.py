"""The shipped classifier knows the digits."""

from __future__ import annotations

import pytest
import torch

from surgery.digits.classifier import (
    FEATURES,
    HELD_OUT,
    Classifier,
    accuracy,
    held_out_split,
    load_classifier,
    train_classifier,
)
from surgery.digits.data import load_digits
from surgery.errors import ArtifactError


def test_the_shipped_classifier_knows_held_out_digits():
    _, held_out = held_out_split(load_digits())
    assert len(held_out.labels) == HELD_OUT
    assert accuracy(load_classifier(), *held_out) >= 0.98


def test_the_split_is_fixed_and_without_overlap():
    digits = load_digits()
    fit, held_out = held_out_split(digits)
    assert len(fit.labels) + len(held_out.labels) == len(digits.labels)
    assert torch.equal(held_out_split(digits)[1].images, held_out.images)
    images = {image.numpy().tobytes() for image in digits.images}
    assert {image.numpy().tobytes() for image in torch.cat([fit.images, held_out.images])} == images


def test_logits_are_linear_in_the_features():
    classifier = load_classifier()
    images = load_digits().images[:20]
    features = classifier.features(images)
    assert features.shape == (20, FEATURES)
    assert torch.equal(classifier(images), classifier.classify(features))
    assert not any(p.requires_grad for p in classifier.parameters())


def test_training_learns_and_repeats_from_its_seed():
    fit, held_out = held_out_split(load_digits())
    first, again = (train_classifier(fit, epochs=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert accuracy(first, *held_out) > 0.8
    assert accuracy(Classifier(), *held_out) < 0.4


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    for name, content in {"short.safetensors": b"\x08", "missing.safetensors": None}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match="retrain") as caught:
            load_classifier(tmp_path / name)
        assert "\n" not in str(caught.value)
