"""Samples depend on seed, index and model alone; pictures of them are crisp."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from surgery.errors import SurgeryError
from surgery.evaluate.sample import balanced_labels, grid_of, grid_png, initial_noise, pictures_of, sample

SCHEDULER = DDPMScheduler(beta_schedule="squaredcos_cap_v2")


class Oracle(nn.Module):
    """Exact for data whose images of class c are all the constant c / 10, of the null class zero."""

    def __init__(self, sigma: bool = False, null: int | None = 10) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.sigma = sigma
        self.config = SimpleNamespace(sample_size=2, in_channels=1, num_embeds_ada_norm=null)

    def forward(self, hidden_states, timestep, class_labels, return_dict=True):
        clean = torch.where(class_labels == 10, 0.0, class_labels / 10).view(-1, 1, 1, 1)
        alpha = SCHEDULER.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noise = (hidden_states - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return (torch.cat([noise, noise.exp()], dim=1) if self.sigma else noise,)


def tiny() -> DiTTransformer2DModel:
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, out_channels=1, num_layers=1,
        sample_size=4, patch_size=2, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    steps=st.integers(2, 30),
    guidance=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    sigma=st.booleans(),
)
def test_a_perfect_denoiser_gives_its_data_and_guidance_extrapolates(labels, steps, guidance, sigma):
    """Guided, the predicted clean image at the last step is guidance * c / 10, and the sampler ends there."""
    images = sample(Oracle(sigma), SCHEDULER, torch.tensor(labels), steps=steps, guidance=guidance, batch_size=5)
    expected = guidance * torch.tensor(labels) / 10
    expected = expected.clamp(-1, 1).view(-1, 1, 1, 1).expand_as(images)
    torch.testing.assert_close(images, expected, atol=0.02, rtol=0)


def test_samples_do_not_depend_on_the_others():
    model, labels = tiny(), torch.tensor([3, 1, 4, 1, 5])
    together = sample(model, SCHEDULER, labels, steps=4)
    torch.testing.assert_close(sample(model, SCHEDULER, labels, steps=4, batch_size=2), together)
    torch.testing.assert_close(sample(model, SCHEDULER, labels[:2], steps=4), together[:2])
    assert torch.equal(sample(model, SCHEDULER, labels, steps=4), together)
    assert not torch.allclose(sample(model, SCHEDULER, labels, steps=4, seed=1), together)
    assert not torch.allclose(together[1], together[3])


def test_guidance_changes_the_samples_of_a_real_model():
    model, labels = tiny(), torch.tensor([3, 1])
    plain, guided = (sample(model, SCHEDULER, labels, steps=4, guidance=g) for g in (1.0, 3.0))
    assert not torch.allclose(plain, guided)


def test_noise_has_the_shape_of_the_model_and_unit_variance():
    noise = initial_noise(tiny(), 500, seed=0)
    assert noise.shape == (500, 1, 4, 4)
    assert abs(float(noise.std()) - 1) < 0.05


def test_progress_is_told_of_every_sample():
    done = []
    sample(tiny(), SCHEDULER, torch.zeros(5, dtype=torch.long), steps=2, batch_size=2, advance=done.append)
    assert done == [2, 2, 1]


def test_guidance_needs_a_null_class():
    with pytest.raises(SurgeryError, match="no null class"):
        sample(Oracle(null=None), SCHEDULER, torch.tensor([1]), steps=2, guidance=2.0)


@given(st.integers(1, 200))
def test_labels_are_balanced(samples):
    counts = balanced_labels(samples).bincount(minlength=10)
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 1


@given(
    count=st.integers(1, 7), channels=st.sampled_from([1, 3, 4]), columns=st.integers(1, 4),
    scale=st.integers(1, 4), margin=st.integers(0, 3),
)  # fmt: skip
def test_every_pixel_of_a_grid_is_a_block_and_margins_are_white(count, channels, columns, scale, margin):
    samples = torch.rand(count, channels, 3, 2) * 2 - 1
    grid = np.asarray(grid_of(pictures_of(samples, scale), columns=columns, margin=margin))
    rows = -(-count // columns)
    assert grid.shape == (rows * (3 * scale + margin) + margin, columns * (2 * scale + margin) + margin, 3)
    rest = np.ones(grid.shape[:2], dtype=bool)
    for i, image in enumerate(samples):
        top, left = (margin + k * (n * scale + margin) for k, n in ((i // columns, 3), (i % columns, 2)))
        tile = grid[top : top + 3 * scale, left : left + 2 * scale]
        shown = image if channels == 3 else image[:1].expand(3, -1, -1)
        expected = ((shown + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert (tile == expected.repeat(scale, axis=0).repeat(scale, axis=1)).all()
        rest[top : top + 3 * scale, left : left + 2 * scale] = False
    assert (grid[rest] == 255).all()


def test_a_grid_is_stored_as_png_without_loss():
    samples = torch.rand(4, 1, 8, 8) * 4 - 2
    with Image.open(io.BytesIO(grid_png(pictures_of(samples)))) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), np.asarray(grid_of(pictures_of(samples))))
