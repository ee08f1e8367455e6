"""The protocol tells good samples from bad ones, and its yardsticks are what they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.digits.judge import nearest_distances, shipped_judge, size_ratio
from surgery.errors import SurgeryError
from surgery.evaluate.frechet import frechet_distance

seeds = st.integers(0, 2**31)


def random(seed: int, count: int, side: int = 3) -> torch.Tensor:
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_nearest_distances_agree_with_a_loop(seed, samples, images):
    a, b = random(seed, samples), random(seed + 1, images)
    expected = [min(float((x - y).norm()) for y in b) for x in a]
    torch.testing.assert_close(nearest_distances(a, b), torch.tensor(expected))


@given(seeds, st.integers(2, 12))
def test_the_nearest_other_image_is_another_one(seed, count):
    images = random(seed, count)
    assert nearest_distances(images, images).max() == 0
    others = nearest_distances(images, images, skip_self=True)
    expected = [nearest_distances(images[i : i + 1], torch.cat([images[:i], images[i + 1 :]])) for i in range(count)]
    torch.testing.assert_close(others, torch.cat(expected))


@settings(deadline=None, max_examples=5)
@given(seeds)
def test_noise_and_wrong_labels_worsen_the_figures(seed):
    judge = shipped_judge()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(judge.real.labels), generator=generator)[:900]
    real = judge.real.select(chosen)
    labels = real.labels
    good = judge.judge(real.images, labels)
    noisy = judge.judge(real.images + 0.7 * torch.randn(real.images.shape, generator=generator), labels)
    assert good.frechet < judge.real_split_distance(3) < noisy.frechet / 2
    assert good.class_accuracy > 0.98 > noisy.class_accuracy
    assert good.nearest == 0 < noisy.nearest
    assert judge.judge(real.images, (labels + 1) % 10).class_accuracy < 0.02


def test_samples_are_clamped_before_they_are_judged():
    judge = shipped_judge()
    real = judge.real.select(torch.arange(300))
    labels = real.labels
    stretched = torch.where(real.images.abs() == 1, real.images * 9, real.images)
    assert judge.judge(stretched, labels) == judge.judge(real.images, labels)


def test_samples_that_cannot_be_judged_are_refused():
    judge = shipped_judge()
    with pytest.raises(SurgeryError, match="too few"):
        judge.judge(torch.zeros(48, 1, 8, 8), torch.zeros(48, dtype=torch.long))
    with pytest.raises(SurgeryError, match="not finite"):
        judge.judge(torch.full((99, 1, 8, 8), torch.nan), torch.zeros(99, dtype=torch.long))


def test_the_excess_distance_of_finite_sets_follows_their_sizes():
    """Subsets of the real images: the distance between disjoint ones grows like 1/N + 1/M."""
    features = shipped_judge().features

    def mean_distance(size: int) -> float:
        total = 0.0
        for i in range(12):
            order = torch.randperm(len(features), generator=torch.Generator().manual_seed(i))
            total += frechet_distance(features[order[:size]], features[order[size : 2 * size]])
        return total / 12

    assert 1.6 < mean_distance(400) / mean_distance(800) < 2.4
    assert size_ratio(1000, 1797) == pytest.approx(0.699, abs=0.001)
