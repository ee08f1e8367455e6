"""Predicted latencies: what is measured, and how it is shared out."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import nn

import surgery
from surgery.evaluate.metrics.latency import LEAST, MOST, WARMUP, latencies_ms
from surgery.models.inputs import example_inputs
from surgery.operators import HyenaX
from surgery.operators.hyena import HyenaXMixer
from surgery.rules import drop_blocks, replace_attention
from surgery.search.candidates import find_candidates
from surgery.search.latency import Latencies


@pytest.fixture
def graph():
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=5, sample_size=8, num_embeds_ada_norm=10,
        norm_num_groups=1,
    )  # fmt: skip
    return surgery.trace(model, example_inputs(model))


@pytest.fixture
def measured(monkeypatch):
    """Students that were measured; each of their operators takes 2 ms more than the attention it replaced."""
    students: list[nn.Module] = []

    def latencies(models, inputs, **_):
        students.extend(models[1:])
        return [10.0 + 2.0 * sum(isinstance(m, HyenaXMixer) for m in model.modules()) for model in models]

    monkeypatch.setattr("surgery.search.latency.latencies_ms", latencies)
    return students


def test_a_kind_is_measured_in_every_second_layer_and_shared_out_equally(graph, measured):
    candidates = find_candidates(graph, [replace_attention(HyenaX(kernel=3))])
    changes = Latencies(graph, example_inputs(graph.model)).changes(candidates)
    assert changes == pytest.approx([2.0] * len(graph.layers))
    (student,) = measured
    edited = [isinstance(block.attn1, HyenaXMixer) for block in student.transformer_blocks]
    assert edited == [True, False, True, False, True]


def test_a_kind_that_only_one_layer_has_is_measured_there(graph, measured):
    candidates = find_candidates(graph, [drop_blocks(layers=surgery.rewriting.indices(2))])
    Latencies(graph, example_inputs(graph.model)).changes(candidates)
    assert len(measured) == 1


class Waits(nn.Module):
    """Moves a clock on."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self.seconds, self.calls, self.now = seconds, 0, 0.0

    def forward(self) -> torch.Tensor:
        self.now += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        return torch.zeros(())


@pytest.mark.parametrize(("seconds", "count"), [(0.001, MOST), (0.02, 50), (0.5, LEAST), (3.0, LEAST)])
def test_short_passes_are_timed_more_often(seconds: float, count: int) -> None:
    model = Waits([seconds])
    assert latencies_ms([model], {}, clock=lambda: model.now) == pytest.approx([1000 * seconds])
    assert model.calls == WARMUP + count


def test_a_pass_in_ten_that_something_else_slows_down_changes_nothing() -> None:
    model = Waits([*[0.01] * 9, 0.5])
    assert latencies_ms([model], {}, clock=lambda: model.now) == pytest.approx([10.0])


def test_a_machine_that_gets_slower_on_the_way_changes_no_ratio() -> None:
    clock = Waits([])
    models = [Slows(clock, seconds) for seconds in (0.1, 0.15)]
    teacher, student = latencies_ms(models, {}, clock=lambda: clock.now)
    assert student / teacher == pytest.approx(1.5)


class Slows(nn.Module):
    """Takes twice as long from some time on."""

    def __init__(self, clock: Waits, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self) -> torch.Tensor:
        self.clock.now += self.seconds * (1 if self.clock.now < 2.55 else 2)
        return torch.zeros(())
