"""A metric is one class: known once it is defined, plain data in a recipe, and what it says."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surgery.digits.metrics import DigitsAccuracy, DigitsFrechet
from surgery.errors import ConfigError
from surgery.evaluate.context import Context
from surgery.evaluate.metrics import Flops, HeldOutLoss, Latency, Metric, Params, TeacherDistance
from surgery.evaluate.settings import Evaluate
from surgery.training.batches import LatentData
from surgery.training.data import LatentDataset

SCHEDULER = DDPMScheduler()


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
        self.config = SimpleNamespace(num_embeds_ada_norm=None)

    def forward(self, hidden_states, timestep, class_labels, return_dict=True):
        return (self.weight * hidden_states,)


def digits(count: int = 40, size: int = 8) -> LatentData:
    latents = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(0))
    return LatentData(LatentDataset(latents, {"class_labels": torch.arange(count)}), SCHEDULER)


def context(model: nn.Module | None = None, drawn: dict[nn.Module, torch.Tensor] | None = None, **changed) -> Context:
    teacher, data = Scaled(), digits()
    given = {
        "teacher": teacher, "model": model or teacher, "labels": torch.arange(4), "data": data, "held_out": 32,
        "seed": 0, "inputs": {"hidden_states": data.dataset.latents[:1], "timestep": torch.tensor([3])},
    }  # fmt: skip
    return Context(**{**given, **changed}, draw=lambda model: (drawn or {})[model])


metrics = st.lists(
    st.sampled_from([Params(), Flops(), Latency(), TeacherDistance(), DigitsFrechet(), DigitsAccuracy()])
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


@settings(deadline=None, max_examples=20)
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


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(20, 200), st.integers(0, 99))
def test_fewer_held_out_samples_are_some_of_more(a, b, count, seed):
    """So that what the smallest batch of a recipe holds out is trained on in neither stage."""

    def labels(size: int) -> set[int]:
        (batch,) = digits(count, 1).source(Scaled(), stage="x", batch_size=size, seed=seed).held_out(3)
        return set(batch.inputs["class_labels"].tolist())

    assert labels(min(a, b)) <= labels(max(a, b))


def test_costs_are_counted():
    data = digits().dataset
    inputs = {"hidden_states": data.latents[:1], "timestep": torch.tensor([3]), "class_labels": torch.tensor([1])}
    judged = context(inputs=inputs)
    assert Params().compute(judged) == 1
    assert Latency().compute(judged) > 0
    assert Flops().compute(judged) >= 0
