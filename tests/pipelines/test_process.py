"""The process of a scheduler is proven by its own step; what is not proven is refused."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import WiringError
from surgery.pipelines.parts import Schedule
from surgery.pipelines.process import Process, process_of
from surgery.pipelines.times import CosMap, Density, LogitNormal, MinSNR, Mode, Sigma, Uniform

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
KNOWN = [
    ("DDPMScheduler", {}, ("variance preserving", "epsilon")),
    ("DDPMScheduler", {"prediction_type": "sample"}, ("variance preserving", "sample")),
    ("DDIMScheduler", {"prediction_type": "v_prediction"}, ("variance preserving", "v_prediction")),
    ("DPMSolverMultistepScheduler", {}, ("variance preserving", "epsilon")),
    ("CogVideoXDPMScheduler", {"prediction_type": "v_prediction"}, ("variance preserving", "v_prediction")),
    ("UniPCMultistepScheduler", {}, ("variance preserving", "epsilon")),
    ("UniPCMultistepScheduler", FLOW, ("flow", "velocity")),
    ("DPMSolverMultistepScheduler", FLOW, ("flow", "velocity")),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, ("flow", "velocity")),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, ("inverted flow", "velocity")),
    ("FlowMatchHeunDiscreteScheduler", {}, ("flow", "velocity")),
    ("EulerDiscreteScheduler", {}, ("exploding", "epsilon")),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}, ("exploding", "v_prediction")),
    ("EulerDiscreteScheduler", {"prediction_type": "sample"}, ("exploding", "sample")),
    ("EulerAncestralDiscreteScheduler", {}, ("exploding", "epsilon")),
    ("HeunDiscreteScheduler", {}, ("exploding", "epsilon")),
]
UNKNOWN = [
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("SCMScheduler", {}),
    ("LCMScheduler", {}),
    ("DDIMInverseScheduler", {}),
    ("FlowMapEulerDiscreteScheduler", {}),
]


def schedule_of(name: str, config: dict[str, Any], steps: int = 20) -> Schedule:
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(2 if name == "SCMScheduler" else steps)
    times = torch.as_tensor(scheduler.timesteps).double()
    sigmas = torch.as_tensor(scheduler.sigmas)[: len(times)].double() if hasattr(scheduler, "sigmas") else None
    return Schedule(name, dict(scheduler.config), times, sigmas)


@pytest.mark.parametrize(("name", "config", "expected"), KNOWN, ids=str)
def test_kind_and_prediction_are_found(name: str, config: dict[str, Any], expected: tuple[str, str]) -> None:
    process = process_of(schedule_of(name, config))
    assert (process.kind, process.predicts) == expected


@pytest.mark.parametrize(("name", "config"), UNKNOWN, ids=str)
def test_a_scheduler_of_no_known_kind_is_refused_by_name(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(WiringError, match=name):
        process_of(schedule_of(name, config))


def test_the_sigmas_of_an_exploding_flow_are_kept() -> None:
    schedule = schedule_of("FlowMatchEulerDiscreteScheduler", {})
    sigmas = torch.linspace(80, 0.1, len(schedule), dtype=torch.float64)
    process = process_of(Schedule(schedule.scheduler, schedule.config, schedule.timesteps, sigmas))
    assert process.kind == "exploding"
    assert bool((process.alphas == 1).all())


@settings(max_examples=30)
@given(st.sampled_from(KNOWN), st.integers(0, 18), st.integers(0, 2**31))
def test_clean_latents_are_found_again(known: Any, position: int, seed: int) -> None:
    process = process_of(schedule_of(known[0], known[1]))
    latents, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    positions = torch.full((3,), position)
    noised, target = (f(latents, noise, positions) for f in (process.noised, process.target))
    assert torch.allclose(process.clean(noised, target, positions), latents, atol=1e-6)
    wrong = target + 1
    error = process.clean(noised, wrong, positions) - latents
    assert torch.allclose(error.abs(), process.gain(positions)[:, None, None].expand_as(error), atol=1e-6)


@pytest.mark.parametrize("known", [KNOWN[2], KNOWN[7], KNOWN[8], KNOWN[9]], ids=str)
def test_a_model_that_gives_the_target_leads_to_the_sample(known: Any) -> None:
    name, config, _ = known
    process = process_of(schedule_of(name, config))
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(20)
    latents = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    x = process.noised(latents, noise, torch.tensor([0]))
    for position, t in enumerate(scheduler.timesteps):
        x = scheduler.step(process.target(latents, noise, torch.tensor([position])), t, x).prev_sample
    last = 1 - float(process.alphas[-1]) if name == "DDIMScheduler" else 0.0
    assert torch.allclose(x, latents, atol=0.02 + 4 * last)


def flow(positions: int = 1000) -> Process:
    sigmas = torch.linspace(1, 1 / positions, positions, dtype=torch.float64)
    return Process("flow", "velocity", 1 - sigmas, sigmas)


def drawn(density: Density, samples: int = 40_000) -> torch.Tensor:
    """Times from 0 to 1, in steps of 1/1000."""
    positions = density.draw(samples, 1000, torch.Generator().manual_seed(0))
    assert positions.min() >= 0
    assert positions.max() < 1000
    return 1 - (positions + 0.5).double() / 1000


shares = st.floats(0.02, 0.98)
densities = st.one_of(
    st.just(Uniform()),
    st.builds(LogitNormal, mean=st.floats(-1, 1), std=st.floats(0.3, 2)),
    st.builds(Mode, scale=st.floats(-1, 1.75)),
)


@settings(max_examples=25, deadline=None)
@given(densities, shares)
def test_a_share_of_all_times_lies_below_its_quantile(density: Density, share: float) -> None:
    times = drawn(density)
    below = (times < float(density.quantile(torch.tensor(share, dtype=torch.float64)))).double().mean()
    assert min(abs(float(below) - share), abs(1 - float(below) - share)) < 0.01  # equation 20 counts from above


@settings(max_examples=10, deadline=None)
@given(st.floats(-1, 1), st.floats(0.3, 1.5))
def test_the_logit_of_a_logit_normal_time_is_normal(mean: float, std: float) -> None:
    logits = torch.logit(drawn(LogitNormal(mean=mean, std=std)))
    assert float(logits.mean()) == pytest.approx(mean, abs=0.03 * (1 + std))
    assert float(logits.std()) == pytest.approx(std, rel=0.04)


@settings(max_examples=10, deadline=None)
@given(st.floats(-1, 1.75))
def test_mode_has_the_density_of_the_paper(scale: float) -> None:
    """At the middle, the derivative of equation 20 is 1 + s (1 - pi / 2): its inverse is the density there."""
    middle = ((drawn(Mode(scale=scale)) - 0.5).abs() < 0.05).double().mean() / 0.1
    steepness = 1 - scale * (torch.pi / 2 - 1)
    if steepness > 0.4:  # else the density changes too fast around the middle
        assert float(middle) == pytest.approx(1 / steepness, rel=0.1)


def test_a_mean_above_0_is_more_noise() -> None:
    assert drawn(LogitNormal(mean=1)).mean() > drawn(Uniform()).mean() > drawn(LogitNormal(mean=-1)).mean()


def test_min_snr_is_that_of_the_paper() -> None:
    positions = torch.tensor([0, 500, 999])
    for predicts, expected in (
        ("epsilon", lambda snr: snr.clamp(max=5) / snr),
        ("v_prediction", lambda snr: snr.clamp(max=5) / (snr + 1)),
        ("sample", lambda snr: snr.clamp(max=5)),
    ):
        process = process_of(schedule_of("DDPMScheduler", {"prediction_type": predicts}, 1000))
        found = MinSNR(gamma=5).at(process, positions)
        assert torch.allclose(found, expected(process.snr(positions)), rtol=1e-9)


def test_weights_of_flows_are_those_of_the_papers() -> None:
    positions = torch.tensor([0, 500])
    sigma = flow().sigmas[positions]
    assert torch.allclose(Sigma().at(flow(), positions), sigma**-2)
    cosmap = 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma**2))
    assert torch.allclose(CosMap().at(flow(), positions), cosmap)
    assert torch.allclose(MinSNR().at(flow(), positions), (((1 - sigma) / sigma) ** 2).clamp(max=5) * sigma**2)


def test_weights_that_do_not_fit_say_so() -> None:
    noisy = process_of(schedule_of("DDPMScheduler", {}, 1000))
    assert MinSNR().misfit(noisy) is MinSNR().misfit(flow()) is Sigma().misfit(flow()) is None
    for weights in (Sigma(), CosMap()):
        assert weights.misfit(noisy) == "is made for flows, and this scheduler's process is variance preserving"
    clean = Process("flow", "velocity", torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert Sigma().misfit(clean) == "is not finite at every time of this scheduler"


@pytest.mark.parametrize("each", [Uniform(), LogitNormal(mean=1), Mode(scale=-0.5)])
def test_densities_are_read_back(each: Density) -> None:
    assert Density.from_data(each.model_dump(mode="json")) == each
