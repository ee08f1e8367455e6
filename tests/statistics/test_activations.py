"""Figures of activations are those of their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.statistics.activations import contribution, moments, similarity


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10), shift=st.floats(-3, 3), wild=st.integers(0, 4))
def test_moments(seed, scale, shift, wild):
    x = draw(seed, 2, 10, 20) * scale + shift
    x.view(-1)[:wild] = 30 * scale
    found, exact = moments(x), x.double()
    away = (exact - exact.mean()).abs() / exact.std(correction=0)
    assert found["mean"] == pytest.approx(float(exact.mean()), abs=1e-9)
    assert found["square"] == pytest.approx(float(exact.square().mean()), rel=1e-9)
    assert found["outliers"] == pytest.approx(float((away > 6).double().mean()))
    assert found["largest"] == float(x.abs().max())


@given(seed=st.integers(0, 10**6), streams=st.integers(1, 2), batch=st.integers(1, 3))
def test_contribution_and_similarity_of_streams_taken_together(seed, streams, batch):
    before = [draw(seed + n, batch, 3 + n, 4) for n in range(streams)]
    added = [draw(seed + 7 + n, batch, 3 + n, 4) for n in range(streams)]
    stream, more = (torch.cat(each, 1).double() for each in (before, added))
    ratios = more.flatten(1).norm(dim=1) / stream.flatten(1).norm(dim=1)
    assert contribution(before, added) == pytest.approx(float(ratios.mean()), abs=1e-6)
    after = stream + more
    cosines = (stream * after).sum(-1) / stream.norm(dim=-1) / after.norm(dim=-1)
    changed = [a + b for a, b in zip(before, added, strict=True)]
    assert similarity(before, changed) == pytest.approx(float(cosines.mean()), abs=1e-6)


def test_streams_without_samples_in_common_are_taken_as_one():
    before, added = [draw(0, 7, 4), draw(1, 23, 4)], [draw(2, 7, 4), draw(3, 23, 4)]
    stream, more = torch.cat(before), torch.cat(added)
    assert contribution(before, added) == pytest.approx(float(more.norm() / stream.norm()), abs=1e-6)
