"""Noised batches and the loss on them."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import TrainingError
from surgery.training.data import LatentDataset, batch_indices
from surgery.training.diffusion import denoising_loss, noised_batch

DATA = LatentDataset(torch.randn(30, 2, 3, 3), {"class_labels": torch.arange(30) % 10})


def alphas(scheduler, batch):
    """sqrt(alpha) and sigma of each sample, to be broadcast over (B, C, H, W)."""
    alpha = scheduler.alphas_cumprod[batch.inputs["timestep"]].view(-1, 1, 1, 1)
    return alpha.sqrt(), (1 - alpha).sqrt()


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(["epsilon", "sample", "v_prediction"]),
    schedule=st.sampled_from(["linear", "squaredcos_cap_v2"]),
    step=st.integers(0, 50),
    seed=st.integers(0, 5),
)
def test_the_target_solves_the_noising_equation(kind, schedule, step, seed):
    scheduler = DDPMScheduler(prediction_type=kind, beta_schedule=schedule)
    batch = noised_batch(DATA, scheduler, step, 7, seed)
    clean = DATA.latents[batch_indices(len(DATA), 7, step, seed)]
    root, sigma = alphas(scheduler, batch)
    noise = (batch.inputs["hidden_states"] - root * clean) / sigma
    expected = {"epsilon": noise, "sample": clean, "v_prediction": root * noise - sigma * clean}[kind]
    torch.testing.assert_close(batch.target, expected, atol=2e-3, rtol=1e-3)


def test_a_batch_is_made_again_from_seed_stage_and_step():
    scheduler = DDPMScheduler()
    first, again = (noised_batch(DATA, scheduler, 3, 8, 1, null_label=10) for _ in range(2))
    assert all(torch.equal(first.inputs[name], again.inputs[name]) for name in first.inputs)
    assert torch.equal(first.target, again.target)
    others = [
        noised_batch(DATA, scheduler, 4, 8, 1),
        noised_batch(DATA, scheduler, 3, 8, 2),
        noised_batch(DATA, scheduler, 3, 8, 1, stage="other"),
    ]
    assert not any(torch.equal(first.target, other.target) for other in others)


def test_timesteps_are_uniform_over_the_schedule():
    batch = noised_batch(DATA, DDPMScheduler(), 0, 20_000, 0)
    counts = torch.histc(batch.inputs["timestep"].float(), bins=10, min=0, max=1000)
    assert (counts - 2000).abs().max() < 6 * 2000**0.5
    assert batch.inputs["timestep"].aminmax() == (0, 999)


@given(drop=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(deadline=None)
def test_labels_are_dropped_at_the_given_rate(drop):
    batch = noised_batch(DATA, DDPMScheduler(), 0, 10_000, 0, null_label=10, label_drop=drop)
    labels = batch.inputs["class_labels"]
    kept = labels != 10
    assert abs(float((~kept).float().mean()) - drop) < 0.03
    original = DATA.conditions["class_labels"][batch_indices(30, 10_000, 0, 0)]
    assert torch.equal(labels[kept], original[kept])


def test_without_a_null_label_none_is_dropped():
    batch = noised_batch(DATA, DDPMScheduler(), 0, 300, 0)
    assert batch.inputs["class_labels"].max() == 9


def test_the_loss_ignores_a_learned_sigma():
    batch = noised_batch(DATA, DDPMScheduler(), 0, 4, 0)
    output = torch.randn_like(batch.target)
    with_sigma = torch.cat([output, torch.full_like(output, 1e6)], dim=1)
    expected = (output - batch.target).square().mean()
    assert torch.isclose(denoising_loss(output, batch), expected)
    assert torch.equal(denoising_loss(with_sigma, batch), denoising_loss(output, batch))


def test_what_cannot_be_trained_is_refused():
    batch = noised_batch(DATA, DDPMScheduler(), 0, 4, 0)
    with pytest.raises(TrainingError, match="3 channels"):
        denoising_loss(torch.zeros(4, 3, 3, 3), batch)
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(TrainingError, match="'flow'"):
        noised_batch(DATA, scheduler, 0, 4, 0)
