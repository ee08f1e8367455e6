"""The learned variance is found in what a pipeline leaves out, and trained by the paper's hybrid loss."""

from __future__ import annotations

import math
from functools import cache

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from surgery.pipelines import measure
from surgery.pipelines.process import Process, process_of
from surgery.pipelines.variance import hybrid_term, variance_elements
from tests.pipelines.test_process import schedule_of
from tests.pipelines.tiny import PIPELINES

STEPS = 50


@cache
def process() -> Process:
    return process_of(schedule_of("DDPMScheduler", {"num_train_timesteps": STEPS}, STEPS))


def by_hand(shares, output, noised, latents, position: int) -> float:
    """-log p or the divergence of p(z_{t-1} | z_t) from q(z_{t-1} | z_t, z), from diffusers' own tables."""
    alphas = diffusers.DDPMScheduler(num_train_timesteps=STEPS).alphas_cumprod.double()
    t = STEPS - 1 - position
    now, before = alphas[t], alphas[t - 1] if t else torch.ones((), dtype=torch.float64)
    beta = 1 - now / before
    smallest = (1 - before) / (1 - now) * beta
    lowest = smallest if t else (1 - alphas[0]) / (1 - alphas[1]) * (1 - alphas[1] / alphas[0])
    std = torch.exp(0.5 * ((shares + 1) / 2 * beta.log() + (1 - shares) / 2 * lowest.log()))
    clean = (noised - (1 - now).sqrt() * output) / now.sqrt()

    def mean(z):
        return before.sqrt() * beta / (1 - now) * z + (1 - beta).sqrt() * (1 - before) / (1 - now) * noised

    model = Normal(mean(clean), std)
    bound = kl_divergence(Normal(mean(latents), smallest.sqrt()), model) if t else -model.log_prob(latents)
    return float(0.001 * STEPS * bound.mean() / math.log(2))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, STEPS - 1), st.integers(0, 10**6), st.booleans())
def test_the_hybrid_term_is_that_of_the_paper(position: int, seed: int, is_double: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(4, 1, 3, 4, generator=generator, dtype=torch.float64)
    shares, output, noise, latents = parts[0].tanh(), parts[1], parts[2], parts[3]
    positions = torch.tensor([position])
    noised = process().noised(latents, noise, positions)
    expected = by_hand(shares, output, noised, latents, position)
    given = (part if is_double else part.float() for part in (shares, output, noised, latents))
    (found,) = hybrid_term(process(), *given, positions)
    assert float(found) == pytest.approx(expected, rel=1e-6 if is_double else 1e-3)  # float32 tables of diffusers


def test_no_gradient_goes_into_the_mean() -> None:
    shares, output = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    hybrid_term(process(), shares, output, torch.ones(1, 3), torch.zeros(1, 3), torch.tensor([7])).sum().backward()
    assert shares.grad is not None
    assert output.grad is None


def test_the_variance_of_the_truth_has_the_least_bound() -> None:
    """Of a model that knows the latents, the best variance is beta~, which is -1."""
    latents, noise, positions = torch.zeros(9, 4), torch.ones(9, 4), torch.full((9,), 10)
    noised = process().noised(latents, noise, positions)
    shares = torch.linspace(-1, 1, 9)[:, None].expand(9, 4)
    terms = hybrid_term(process(), shares, noise, noised, latents, positions)
    assert float(terms[0]) == pytest.approx(0, abs=1e-6)
    assert torch.equal(terms, terms.sort().values)


@pytest.mark.parametrize(
    ("name", "has"), [("DiTPipeline", True), ("PixArtSigmaPipeline", True), ("StableDiffusion3Pipeline", False)]
)
def test_it_is_found_by_what_a_pipeline_leaves_out(name: str, has: bool) -> None:
    tiny = next(tiny for tiny in PIPELINES if tiny.name == name)
    wiring = measure(tiny.build(), tiny.call)
    found = variance_elements(wiring, process_of(wiring.schedule))
    assert (found is not None) == has
    if found is not None:
        elements = torch.Size(wiring.shape).numel()
        assert torch.equal(found, torch.arange(elements, 2 * elements))
