"""The digits' metrics are the figures of their judge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surgery.digits.data import load_digits
from surgery.digits.judge import shipped_judge
from surgery.digits.metrics import DigitsAccuracy, DigitsFrechet
from surgery.evaluate.context import Context
from surgery.evaluate.sampling import Drawn
from tests.training import tiny
from tests.training.test_wired import wired


def test_they_give_what_the_judge_gives():
    images, labels = load_digits()
    samples, asked = 1.5 * images[:300] + 0.1, labels[:300].roll(7)
    context = Context(
        teacher=tiny.teacher(), model=nn.Identity(), prompts=asked.tolist(), held_out=32, seed=0,
        data=tiny.data(), inputs={}, draw=lambda model: Drawn(samples, ()),
    )  # fmt: skip
    quality = shipped_judge().judge(samples, asked)
    assert DigitsFrechet().compute(context) == quality.frechet
    assert DigitsAccuracy().compute(context) == quality.class_accuracy
    assert 0 < quality.class_accuracy < 1


@given(st.integers(1, 99))
def test_too_few_samples_are_refused(samples):
    reason = DigitsFrechet().check(tiny.data(), samples)
    assert (reason is None) == (samples > 48)
    assert reason is None or "use at least 49" in reason


@pytest.mark.parametrize("metric", [DigitsFrechet(), DigitsAccuracy()])
def test_other_data_are_refused(metric):
    assert metric.check(wired("DiTPipeline")[1], 1000).endswith("the model is of other data")
    assert metric.check(tiny.data(), 1000) is None
