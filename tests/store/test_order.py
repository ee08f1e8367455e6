"""Each sample comes once an epoch, in full batches of one kind, in an order that the seed and the step tell."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.store.order import HELD_OUT_SHARE, Order, held_out, seeded

kinds = st.lists(st.sampled_from("abc"), min_size=1, max_size=20)
sizes, seeds = st.integers(1, 7), st.integers(0, 5)


@given(kinds=kinds, size=sizes, seed=seeds, epochs=st.integers(1, 4))
@settings(max_examples=60)
def test_each_sample_comes_once_an_epoch(kinds: list[str], size: int, seed: int, epochs: int) -> None:
    order, first = Order(kinds, size, seed), Order(kinds, 1, seed)
    for epoch in range(epochs):
        row = [first.batch(step)[0] for step in range(epoch * len(kinds), (epoch + 1) * len(kinds))]
        assert sorted(row) == list(range(len(kinds)))
    steps = sum(epochs * kinds.count(kind) // size for kind in set(kinds))
    visits = Counter(number for step in range(steps) for number in order.batch(step))
    for number, kind in enumerate(kinds):
        waiting = epochs * kinds.count(kind) % size  # of its kind, for a batch to get full
        assert epochs - -(-waiting // kinds.count(kind)) <= visits[number] <= epochs


@given(kinds=kinds, size=sizes, seed=seeds, steps=st.lists(st.integers(0, 60), min_size=1, max_size=8))
@settings(max_examples=60)
def test_a_batch_is_full_of_one_kind_and_depends_on_seed_and_step_alone(
    kinds: list[str], size: int, seed: int, steps: list[int]
) -> None:
    order = Order(kinds, size, seed)
    for step in steps:
        batch = order.batch(step)
        assert len(batch) == size
        assert len({kinds[number] for number in batch}) == 1
        assert batch == Order(kinds, size, seed).batch(step)


@given(count=st.integers(1, 20), size=sizes, seed=seeds, step=st.integers(0, 40))
def test_samples_of_one_kind_come_as_one_row_of_permutations(count: int, size: int, seed: int, step: int) -> None:
    start, stop = step * size, (step + 1) * size
    epochs = range((stop - 1) // count + 1)
    row = torch.cat([torch.randperm(count, generator=seeded(seed, "epoch", epoch)) for epoch in epochs])
    assert Order(["a"] * count, size, seed).batch(step) == row[start:stop].tolist()


def test_streams_are_told_apart_by_every_key() -> None:
    keys = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1)]
    assert len({float(torch.rand((), generator=seeded(*key))) for key in keys}) == len(keys)


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(Order(["a"] * 50, 50, seed).batch(step)) for seed in range(3) for step in range(3)}
    assert len(orders) == 9


def test_an_order_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Order([], 1, 0)


@given(
    contents=st.lists(st.integers(0, 99).map(str), max_size=200),
    most=st.integers(0, 10),
    seed=seeds,
    shuffle=st.randoms(use_true_random=False),
)
@settings(max_examples=40)
def test_what_is_held_out_is_not_trained_on(contents: list[str], most: int, seed: int, shuffle: object) -> None:
    held, training = held_out(contents, most, seed)
    chosen = {contents[number] for number in held}
    assert sorted(held + training) == list(range(len(contents)))
    assert not chosen & {contents[number] for number in training}
    assert len(chosen) == min(most, len(set(contents)) // HELD_OUT_SHARE)
    mixed = list(contents)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    assert {mixed[number] for number in held_out(mixed, most, seed)[0]} == chosen
    assert {contents[number] for number in held_out(contents, most + 1, seed)[0]} >= chosen


def test_other_seeds_hold_out_others() -> None:
    contents = [str(number) for number in torch.arange(100).tolist()]
    assert held_out(contents, 5, 0) != held_out(contents, 5, 1)
