"""Data sets, and the order of batches that needs no state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from surgery.errors import RecipeError
from surgery.store.order import seeded
from surgery.training.data import LatentDataset, batch_indices, load_data

small = st.integers(1, 40)


@settings(max_examples=100)
@given(size=small, batch_size=small, steps=st.integers(1, 12), seed=st.integers(0, 9))
def test_batches_cut_the_row_of_epochs_without_gap_or_repeat(size, batch_size, steps, seed):
    row = torch.cat([batch_indices(size, batch_size, step, seed) for step in range(steps)])
    assert len(row) == steps * batch_size
    for epoch in row.split(size):
        assert len(set(epoch.tolist())) == len(epoch)
        assert set(epoch.tolist()) <= set(range(size))


@settings(max_examples=100)
@given(size=small, batch_size=small, step=st.integers(0, 1000), seed=st.integers(0, 9))
def test_a_batch_depends_on_its_arguments_alone(size, batch_size, step, seed):
    first = batch_indices(size, batch_size, step, seed)
    torch.rand(3)
    assert torch.equal(first, batch_indices(size, batch_size, step, seed))


def test_seeds_and_epochs_order_the_samples_differently():
    orders = [batch_indices(50, 50, step, seed).tolist() for step in range(3) for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_streams_are_told_apart_by_every_key():
    keys = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1)]
    draws = {float(torch.rand((), generator=seeded(*key))) for key in keys}
    assert len(draws) == len(keys)


def test_digits_span_the_range_and_all_classes():
    digits = load_data("digits")
    assert digits.latents.shape == (1797, 1, 8, 8)
    assert digits.latents.dtype == torch.float32
    assert digits.latents.aminmax() == (-1, 1)
    assert digits.conditions["class_labels"].bincount().tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]


def test_a_file_gives_back_latents_and_conditions(tmp_path):
    tensors = {"latents": torch.randn(6, 4, 2, 2), "class_labels": torch.arange(6)}
    save_file(tensors, tmp_path / "data.safetensors")
    data = load_data(tmp_path / "data.safetensors")
    assert torch.equal(data.latents, tensors["latents"])
    assert data.conditions.keys() == {"class_labels"}
    assert torch.equal(data.select(torch.tensor([4, 1])).conditions["class_labels"], torch.tensor([4, 1]))


def test_unusable_data_are_refused_in_one_line(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    save_file({"images": torch.zeros(2, 1, 2, 2)}, tmp_path / "other.safetensors")
    save_file({"latents": torch.zeros(2, 4)}, tmp_path / "flat.safetensors")
    save_file({"latents": torch.zeros(2, 1, 2, 2), "y": torch.zeros(3)}, tmp_path / "uneven.safetensors")
    expected = {
        "digit": "unknown data 'digit'",
        "missing.safetensors": "does not exist",
        "broken.safetensors": "cannot be read",
        "other.safetensors": "no tensor 'latents' .*images",
        "flat.safetensors": "shape",
        "uneven.safetensors": "condition 'y'",
    }
    for name, message in expected.items():
        source = tmp_path / name if name.endswith(".safetensors") else name
        with pytest.raises(RecipeError, match=message) as caught:
            load_data(source)
        assert "\n" not in str(caught.value)


def test_a_data_set_without_samples_is_refused():
    with pytest.raises(RecipeError, match="N > 0"):
        LatentDataset(torch.zeros(0, 1, 2, 2), {})
