"""A metric is one class: known once it is defined, plain data in a recipe, and what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surgery.digits.metrics import DigitsAccuracy, DigitsFrechet
from surgery.errors import ConfigError, SurgeryError
from surgery.evaluate.context import Context
from surgery.evaluate.metrics import (
    Fid,
    Flops,
    HeldOutLoss,
    Kid,
    Latency,
    Metric,
    Params,
    Precision,
    Recall,
    SpeedUp,
    TeacherDistance,
)
from surgery.evaluate.sampling import Drawn
from surgery.evaluate.settings import Evaluate
from surgery.store import InMemory
from surgery.training.wired import WiredData
from tests.nightly import examples
from tests.training import tiny


class Brightness(Metric):
    """The mean of the samples, as a user would write it."""

    kind: Literal["test_brightness"] = "test_brightness"
    title: ClassVar[str] = "brightness"
    better: ClassVar[Literal["lower", "higher"]] = "higher"
    gain: float = 1.0

    def compute(self, context: Context) -> float:
        return self.gain * float(context.samples.mean())


class Scaled(nn.Module):
    """Predicts its input times a weight."""

    def __init__(self, weight: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, hidden_states, timestep, class_labels, return_dict=True):
        return (self.weight * hidden_states,)


@cache
def digits(count: int = 60) -> WiredData:
    """So many of the pictures of noise."""
    data = tiny.data()
    samples = InMemory([data.feed.samples[number] for number in range(count)])
    return replace(data, feed=replace(data.feed, samples=samples))


def context(model: nn.Module | None = None, drawn: dict[nn.Module, torch.Tensor] | None = None, **changed) -> Context:
    teacher, data = Scaled(), digits()
    given = {
        "teacher": teacher, "model": model or teacher, "prompts": range(4), "data": data, "held_out": 32,
        "seed": 0, "inputs": data.example(0, "cpu"),
    }  # fmt: skip
    return Context(**{**given, **changed}, draw=lambda model: Drawn((drawn or {})[model], ()))


metrics = st.lists(
    st.sampled_from([Params(), Flops(), TeacherDistance(), DigitsFrechet(), DigitsAccuracy()])
    | st.sampled_from([Latency, SpeedUp]).flatmap(lambda metric: st.builds(metric, compiled=st.booleans()))
    | st.sampled_from([Fid, Kid, Precision, Recall]).map(lambda metric: metric(reference=Path("real")))
    | st.builds(HeldOutLoss, draws=st.integers(1, 9))
    | st.builds(Brightness, gain=st.floats(-9, 9)),
    unique_by=lambda metric: metric.name,
)


@given(st.none() | metrics, st.integers(1, 10**6))
def test_what_is_measured_survives_json(chosen, samples):
    evaluate = Evaluate(metrics=chosen, samples=samples)
    assert Evaluate(**json.loads(json.dumps(evaluate.model_dump(mode="json")))) == evaluate


@given(metrics.filter(bool), st.data())
def test_each_name_stands_once(chosen, data):
    twice = data.draw(st.sampled_from(chosen))
    with pytest.raises(ConfigError, match=rf"Evaluate.metrics: the name '{twice.name}' must stand once"):
        Evaluate(metrics=[*chosen, twice])


def test_names_of_a_stages_own_are_refused():
    class Seconds(Brightness):
        kind: Literal["seconds"] = "seconds"  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="'seconds' must stand once"):
        Evaluate(metrics=[Seconds()])


def test_an_unknown_kind_says_what_to_do():
    words = "unknown kind 'test_brightnes', did you mean 'test_brightness'.*import the module that defines it"
    with pytest.raises(ConfigError, match=words):
        Evaluate(metrics=[{"kind": "test_brightnes"}])
    with pytest.raises(ConfigError, match=r"Evaluate.metrics.0: must be a Metric, got 3"):
        Evaluate(metrics=[3])


def test_a_kind_belongs_to_one_class():
    with pytest.raises(ConfigError, match=r"the kind 'latency_ms' is that of .*Latency; choose another"):

        class Mine(Latency):
            kind: Literal["latency_ms"] = "latency_ms"

    def again():
        class Same(Brightness):
            kind: Literal["test_same"] = "test_same"  # type: ignore[assignment]

        return Same

    assert again() is not again()


@examples(20)
@given(st.floats(-2, 2), st.integers(1, 3))
def test_the_distance_to_the_teacher_is_that_of_the_samples(shift, count):
    model, teacher = Scaled(), Scaled()
    samples = torch.randn(count, 1, 2, 2)
    given_samples = {teacher: samples, model: samples + shift}
    judged = context(model, given_samples, teacher=teacher)
    assert TeacherDistance().compute(judged) == pytest.approx(abs(shift), abs=1e-5)
    assert TeacherDistance().compute(context(teacher, given_samples, teacher=teacher)) == 0


def test_the_held_out_loss_is_a_mean_squared_error_on_fixed_noise():
    """A model that predicts zeros is wrong by the noise, whose variance is 1."""
    metric = HeldOutLoss(draws=40)
    loss = metric.compute(context(Scaled(0.0)))
    assert loss == pytest.approx(1, abs=0.05)
    assert metric.compute(context(Scaled(0.0))) == loss
    assert HeldOutLoss(draws=1).compute(context(Scaled(0.0))) != loss
    assert metric.compute(context(Scaled(-3.0))) > 5 * loss
    assert metric.check(digits(20), 1000) is None
    assert "of 19 samples none is held out" in metric.check(digits(19), 1000)


@pytest.mark.parametrize("different", [19, 20])
def test_the_held_out_loss_of_nothing_is_no_number(different):
    samples = InMemory([digits().feed.samples[number % different] for number in range(40)])
    data = replace(digits(), feed=replace(digits().feed, samples=samples))
    loss = HeldOutLoss(draws=2).compute(context(Scaled(0.0), data=data))
    assert math.isnan(loss) == (different < 20)


def test_costs_are_counted():
    judged = context()
    assert Params().compute(judged) == 1
    assert Latency().compute(judged) > 0
    assert SpeedUp().compute(judged) == 1  # of the teacher over itself, whatever else the machine does
    assert 0 < SpeedUp().compute(context(Scaled(2.0))) < math.inf
    assert Flops().compute(judged) >= 0


def test_compiled_models_are_compiled(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model: asked.append(model) or model)
    judged = context(Scaled(2.0))
    for metric, models in ((Latency, [judged.model]), (SpeedUp, [judged.teacher, judged.model])):
        assert metric(compiled=True).compute(judged) > 0
        assert metric(compiled=True).name == f"compiled_{metric().name}"
        assert metric(compiled=True).column.title.endswith(", compiled")
        assert asked == models
        asked.clear()


def test_a_model_that_cannot_be_compiled_is_named(monkeypatch):
    def refuse(**inputs):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda model: refuse)
    with pytest.raises(SurgeryError, match="Scaled cannot be compiled: no C\\+\\+ compiler; measure it uncompiled"):
        Latency(compiled=True).compute(context())
