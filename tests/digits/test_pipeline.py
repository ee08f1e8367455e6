"""The pipeline of the digits draws what a perfect model knows, each sample for itself."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surgery.digits.data import Labelled
from surgery.digits.feed import digits_feed
from surgery.digits.pipeline import DigitsPipeline
from surgery.errors import RecipeError
from surgery.store.order import seeded
from surgery.training.source import batch_loss
from tests.training import tiny

SCHEDULER = DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
Generators = list[torch.Generator]


class Oracle(nn.Module):
    """Exact for data whose images of class c are all the constant c / 10, of the null class zero."""

    def __init__(self, sigma: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.sigma = sigma
        self.config = SimpleNamespace(sample_size=2, in_channels=1, num_embeds_ada_norm=10)

    def forward(self, hidden_states, timestep, class_labels):
        clean = torch.where(class_labels == 10, 0.0, class_labels / 10).view(-1, 1, 1, 1)
        alpha = SCHEDULER.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        noise = (hidden_states - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return SimpleNamespace(sample=torch.cat([noise, noise.exp()], dim=1) if self.sigma else noise)


def generators(count: int, seed: int = 0) -> Generators:
    return [seeded(seed, number) for number in range(count)]


@cache
def tiny_pipeline() -> DigitsPipeline:
    return DigitsPipeline(tiny.teacher().double().eval(), tiny.scheduler())


@settings(deadline=None, max_examples=20)
@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    steps=st.integers(2, 20),
    guidance=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    sigma=st.booleans(),
)
def test_a_perfect_denoiser_gives_its_data_and_guidance_extrapolates(labels, steps, guidance, sigma):
    """Guided, the predicted clean image at the last step is guidance * c / 10, and the sampler ends there."""
    pipeline = DigitsPipeline(Oracle(sigma), SCHEDULER)
    images = pipeline(labels, guidance, steps, generators(len(labels)), output_type="latent").images
    expected = guidance * torch.tensor(labels) / 10
    expected = expected.clamp(-1, 1).view(-1, 1, 1, 1).expand_as(images)
    torch.testing.assert_close(images, expected, atol=0.02, rtol=0)


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=4), st.sampled_from([1.0, 3.0]))
def test_samples_do_not_depend_on_the_others(labels, guidance):
    draw = {"guidance_scale": guidance, "num_inference_steps": 4, "output_type": "latent"}
    together = tiny_pipeline()(labels, generator=generators(len(labels)), **draw).images
    for number, label in enumerate(labels):
        alone = tiny_pipeline()([label], generator=generators(number + 1)[-1:], **draw).images
        torch.testing.assert_close(alone[0], together[number])


def test_noise_classes_and_guidance_tell_samples_apart():
    draw = {"num_inference_steps": 4, "output_type": "latent"}
    first = tiny_pipeline()([1, 2], generator=generators(2), **draw).images
    for other in (
        tiny_pipeline()([1, 2], generator=generators(2, seed=1), **draw),
        tiny_pipeline()([3, 4], generator=generators(2), **draw),
        tiny_pipeline()([1, 2], 3.0, generator=generators(2), **draw),
    ):
        assert not torch.allclose(other.images, first)
    assert [picture.size for picture in tiny_pipeline()([1, 2], num_inference_steps=1).images] == [(20, 20)] * 2


def test_pictures_of_another_size_are_no_data():
    with pytest.raises(RecipeError, match=r"latents of shape \(1, 8, 8\), and those of DigitsPipeline are \(1, 4, 4\)"):
        digits_feed(tiny_pipeline(), Labelled(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)))


def test_batches_are_the_digits_with_noise_and_some_have_no_class():
    data = tiny.data()
    batches = data.source(tiny.teacher(), stage="x", batch_size=30, seed=0)
    (forward,) = batches.training(0)
    inputs = forward.inputs
    assert inputs["hidden_states"].shape == forward.taught.target.shape == (30, 1, 4, 4)
    alpha = tiny.scheduler().alphas_cumprod[inputs["timestep"]].view(-1, 1, 1, 1)
    clean = (inputs["hidden_states"] - (1 - alpha).sqrt() * forward.taught.target) / alpha.sqrt()
    pictures = torch.stack([data.feed.samples[number].latents for number in range(60)])
    nearest = torch.cdist(clean.flatten(1), pictures.flatten(1)).argmin(1)
    kept = inputs["class_labels"] != 10
    assert torch.equal(inputs["class_labels"][kept], (nearest % 10)[kept])
    labels = torch.cat([batches.training(step)[0].inputs["class_labels"] for step in range(20)])
    assert 0.05 < float((labels == 10).double().mean()) < 0.17
    assert batch_loss(tiny.teacher(), [forward]) > 0
