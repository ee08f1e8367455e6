"""The Frechet distance has the properties of the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import SurgeryError
from surgery.evaluate.frechet import Gaussian, fit_gaussian, frechet_distance, gaussian_distance

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 6)


def features(seed: int, size: int, samples: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.randn(samples, size, generator=generator, dtype=torch.float64) @ mix + mix[0]


def gaussian(seed: int, size: int) -> Gaussian:
    return fit_gaussian(features(seed, size))


@given(seeds, sizes)
def test_identical_sets_have_distance_zero(seed, size):
    x = features(seed, size)
    scale = float(x.square().mean())
    assert 0 <= frechet_distance(x, x) <= 1e-6 * max(1.0, scale)


@given(seeds, seeds, sizes)
def test_it_is_symmetric_and_not_negative(seed_a, seed_b, size):
    a, b = features(seed_a, size), features(seed_b, size)
    distance = frechet_distance(a, b)
    assert distance >= 0
    assert math.isclose(distance, frechet_distance(b, a), rel_tol=1e-6, abs_tol=1e-5)


@given(seeds, seeds, sizes)
def test_the_order_of_samples_does_not_matter(seed_a, seed_b, size):
    a, b = features(seed_a, size), features(seed_b, size)
    shuffled = a[torch.randperm(len(a), generator=torch.Generator().manual_seed(seed_b))]
    assert math.isclose(frechet_distance(a, b), frechet_distance(shuffled, b), rel_tol=1e-9, abs_tol=1e-6)


@given(seeds, seeds, sizes)
def test_rotating_and_moving_both_sets_changes_nothing(seed_a, seed_b, size):
    a, b = features(seed_a, size), features(seed_b, size)
    rotation = torch.linalg.qr(features(seed_a + 1, size)[:size]).Q
    moved = frechet_distance(a @ rotation + 3, b @ rotation + 3)
    assert math.isclose(frechet_distance(a, b), moved, rel_tol=1e-6, abs_tol=1e-4)


@given(st.lists(st.tuples(*[st.floats(-5, 5)] * 2, *[st.floats(0, 5)] * 2).map(lambda t: t), min_size=1, max_size=5))
def test_commuting_gaussians_have_the_closed_form(rows):
    """With diagonal covariances the distance is the sum over axes of (m1 - m2)^2 + (s1 - s2)^2."""
    mean_a, mean_b, sigma_a, sigma_b = torch.tensor(rows, dtype=torch.float64).T
    a, b = Gaussian(mean_a, sigma_a.square().diag()), Gaussian(mean_b, sigma_b.square().diag())
    expected = float(((mean_a - mean_b).square() + (sigma_a - sigma_b).square()).sum())
    assert math.isclose(gaussian_distance(a, b), expected, rel_tol=1e-6, abs_tol=1e-6)


@settings(deadline=None)
@given(seeds, seeds, sizes)
def test_it_agrees_with_a_general_matrix_square_root(seed_a, seed_b, size):
    a, b = gaussian(seed_a, size), gaussian(seed_b, size)
    eigenvalues = np.linalg.eigvals((a.covariance @ b.covariance).numpy())
    root_trace = np.sqrt(eigenvalues.astype(complex)).real.sum()
    traces = float(a.covariance.trace() + b.covariance.trace())
    expected = float((a.mean - b.mean).square().sum()) + traces - 2 * root_trace
    assert math.isclose(gaussian_distance(a, b), expected, rel_tol=1e-5, abs_tol=1e-5 * traces)


@given(sizes, st.integers(0, 6))
def test_too_few_samples_are_refused(size, missing):
    samples = max(0, size - missing)
    with pytest.raises(SurgeryError, match=f"use at least {size + 1}"):
        frechet_distance(features(0, size, samples), features(1, size))


def test_values_that_are_not_finite_are_refused():
    x = features(0, 3)
    x[5, 1] = torch.nan
    with pytest.raises(SurgeryError, match="not finite"):
        fit_gaussian(x)
