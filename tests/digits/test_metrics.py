"""The digits' metrics are the figures of their judge."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surgery.digits.judge import judge_for
from surgery.digits.metrics import DigitsAccuracy, DigitsFrechet
from surgery.evaluate.context import Context
from surgery.models import load_pretrained
from surgery.training.batches import LatentData
from surgery.training.data import LatentDataset, load_data


def test_they_give_what_the_judge_gives():
    data, teacher = load_data("digits"), load_pretrained("digits-dit")
    samples = 1.5 * data.latents[:300] + 0.1
    labels = data.conditions["class_labels"][:300].roll(7)
    context = Context(
        teacher=teacher.model, model=nn.Identity(), labels=labels, held_out=32, seed=0,
        data=LatentData(data, teacher.scheduler), inputs={}, draw=lambda model: samples,
    )  # fmt: skip
    quality = judge_for("digits").judge(samples, labels)
    assert DigitsFrechet().compute(context) == quality.frechet
    assert DigitsAccuracy().compute(context) == quality.class_accuracy
    assert 0 < quality.class_accuracy < 1


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 99))
def test_other_data_and_too_few_samples_are_refused(channels, size, samples):
    data = LatentData(LatentDataset(torch.zeros(2, channels, size, size), {}), load_pretrained("digits-dit").scheduler)
    other = (channels, size) != (1, 8)
    reason = DigitsFrechet().check(data, samples)
    assert (reason is not None) == (other or samples <= 48)
    assert (DigitsAccuracy().check(data, samples) is not None) == other
    if reason is not None and samples <= 48:
        assert "use at least 49" in reason
