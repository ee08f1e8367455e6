"""Batches of a wired pipeline are what its own code would feed, and their loss is the one by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surgery.pipelines import Wiring, measure
from surgery.pipelines.calls import Calls
from surgery.pipelines.feed import Feed
from surgery.pipelines.sources import fed_by
from surgery.pipelines.times import CosMap, LogitNormal
from surgery.store import InMemory, Sample
from surgery.training.source import Noising, batch_loss, predict
from surgery.training.wired import WiredData
from tests.pipelines.tiny import PIPELINES

NAMES = ("DiTPipeline", "FluxPipeline", "WanPipeline")


@cache
def wired(name: str, samples: int = 40) -> tuple[nn.Module, WiredData]:
    """The model of a pipeline, and samples which are all of their own number."""
    tiny = next(tiny for tiny in PIPELINES if tiny.name == name)
    pipeline = tiny.build()
    wiring = measure(pipeline, tiny.call)
    conditions = [condition.arguments for condition in wiring.conditions]
    made = [fed_by(torch.full(wiring.shape, float(number)), conditions) for number in range(samples)]
    return pipeline.transformer, data_of([wiring], made)


def data_of(wirings: Sequence[Wiring], samples: Sequence[Sample]) -> WiredData:
    return WiredData(Feed(Calls({}, (), "", False, 1), tuple(wirings), InMemory(samples)), {})


def inputs_of(forwards: Any) -> list[torch.Tensor]:
    return [
        leaf for f in forwards for leaf in torch.utils._pytree.tree_leaves(f.inputs) if isinstance(leaf, torch.Tensor)
    ]


@given(st.sampled_from(NAMES), st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_batch_depends_on_its_number_alone_and_is_whole(name, step, size, seed):
    model, data = wired(name)
    first, again, other = (
        data.source(model, stage="x", batch_size=size, seed=seed).training(number) for number in (step, step, step + 1)
    )
    assert sum(forward.share for forward in first) == pytest.approx(1)
    assert sum(len(forward.taught.target) for forward in first) == size
    assert all(map(torch.equal, inputs_of(first), inputs_of(again)))
    assert not torch.equal(first[0].taught.target[0], other[0].taught.target[0])


@given(st.sampled_from(NAMES), st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_the_loss_of_a_batch_is_that_of_its_samples_one_by_one(name, seed):
    model, data = wired(name)
    batch = data.source(model, stage="x", batch_size=3, seed=seed).held_out(seed)
    errors = []
    with torch.no_grad():
        for forward in batch:
            output = data.wiring.model_output(predict(model, forward.inputs), len(forward.taught.target))
            errors += list((output - forward.taught.target).square().flatten(1).mean(1))
    assert batch_loss(model, batch) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_what_is_held_out_is_never_trained_on(count, size, seed):
    model, data = wired("FluxPipeline")
    asked: list[int] = []

    class Noting(list[Sample]):
        def __getitem__(self, number: Any) -> Any:
            asked.append(number)
            return super().__getitem__(number)

    conditions = data.feed.samples[0].conditions
    few = data_of(
        [data.wiring], Noting([Sample(torch.full(data.wiring.shape, float(n)), conditions) for n in range(count)])
    )
    batches = few.source(model, stage="x", batch_size=size, seed=seed)
    held = bool(batches.held_out())
    kept = set(asked)
    asked.clear()
    for step in range(-(-count // size) + 1):
        batches.training(step)
    assert held == (count >= 20)
    assert set(asked) == set(range(count)) - kept


@given(st.sampled_from(NAMES), st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_micro_batches_hold_the_same_samples(name, size, most, seed):
    model, data = wired(name)
    whole, parts = (
        data.source(model, stage="x", batch_size=size, seed=seed, noising=Noising(micro_batch=micro)).training(1)
        for micro in (None, most)
    )
    assert max(len(forward.taught.positions) for forward in parts) <= most
    assert sum(forward.share for forward in parts) == pytest.approx(1)
    noised = [torch.cat([forward.taught.noised for forward in forwards]) for forwards in (whole, parts)]
    assert torch.equal(*(each.flatten(1).sum(1).sort().values for each in noised))


def test_times_and_weights_are_the_recipes_and_what_is_held_out_is_judged_plainly():
    model, data = wired("FluxPipeline")
    late = LogitNormal(mean=-4, std=0.1)
    plain, weighed = (
        data.source(model, stage="x", batch_size=8, seed=0, noising=Noising(late, weights))
        for weights in (None, CosMap())
    )
    one, two = (torch.cat([forward.taught.positions for forward in source.training(0)]) for source in (plain, weighed))
    assert torch.equal(one, two)
    assert bool((data.processes[0].sigmas[one] < data.processes[0].sigmas.median()).all())
    losses = []
    for forward, other in zip(plain.training(0), weighed.training(0), strict=True):
        with torch.no_grad():
            output = predict(model, forward.inputs)
        errors = (data.wiring.model_output(output, len(forward.taught.target)) - forward.taught.target).square()
        expected = errors.flatten(1).mean(1) * CosMap().at(data.processes[0], forward.taught.positions)
        losses.append((other.loss(output), expected.mean().float()))
    torch.testing.assert_close(*map(torch.stack, zip(*losses, strict=True)))
    assert batch_loss(model, plain.held_out()) == batch_loss(model, weighed.held_out())


def test_a_learned_variance_is_trained_and_not_judged():
    model, data = wired("DiTPipeline")
    source = data.source(model, stage="x", batch_size=4, seed=0)
    (trained,), (judged,) = source.training(0), source.held_out()
    for forward, has in ((trained, True), (judged, False)):
        output = predict(model, forward.inputs).detach().requires_grad_()
        forward.loss(output).backward()
        mean, variance = output.grad.chunk(2, dim=1)
        assert mean.abs().sum() > 0
        assert bool(variance.abs().sum() > 0) == has
