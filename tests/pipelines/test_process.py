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
from surgery.pipelines.times import drawn_positions, loss_weights

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
]
UNKNOWN = [
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("EulerDiscreteScheduler", {}),
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


def test_densities_are_those_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    uniform, normal, mode = (
        drawn_positions(d, 40_000, 1000, generator).double() for d in ("uniform", "logit-normal", "mode")
    )
    assert abs(float(uniform.mean()) - 500) < 5
    inside = float(((normal > 269) & (normal < 731)).double().mean())  # sigmoid(-1) and sigmoid(1): one sigma
    assert abs(inside - 0.683) < 0.01
    assert all(int(drawn.min()) >= 0 and int(drawn.max()) < 1000 for drawn in (uniform, normal, mode))
    assert float(((mode - 500).abs() < 100).double().mean()) > 0.2  # heavier in the middle than uniform


def test_min_snr_is_that_of_the_paper() -> None:
    positions = torch.tensor([0, 500, 999])
    for predicts, expected in (
        ("epsilon", lambda snr: snr.clamp(max=5) / snr),
        ("v_prediction", lambda snr: snr.clamp(max=5) / (snr + 1)),
        ("sample", lambda snr: snr.clamp(max=5)),
    ):
        process = process_of(schedule_of("DDPMScheduler", {"prediction_type": predicts}, 1000))
        found = loss_weights("min-snr", process, positions)
        assert torch.allclose(found, expected(process.snr(positions)).float(), rtol=1e-5)


def test_weights_of_sigma_are_those_of_the_paper() -> None:
    positions = torch.tensor([0, 500])
    sigma = flow().sigmas[positions]
    assert torch.equal(loss_weights("none", flow(), positions), torch.ones(2))
    assert torch.allclose(loss_weights("sigma", flow(), positions), (sigma**-2).float())
    cosmap = 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma**2))
    assert torch.allclose(loss_weights("cosmap", flow(), positions), cosmap.float())
