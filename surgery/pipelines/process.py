"""q(z_t | z) of a scheduler, and the target that belongs to it.

z_t = alpha z + sigma noise. What a scheduler's classes and options mean is not looked up: of the known kinds of process,
the one is taken whose target its own `step` turns into less noisy latents of the same sample; without one it is refused.

Shapes: B samples, ... the latents of one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.parts import Schedule

Kind = Literal["flow", "inverted flow", "variance preserving", "exploding"]
Target = Literal["velocity", "epsilon", "v_prediction", "sample"]

TRIED_STEPS = 5
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Process:
    """q(z_t | z) at each position of a schedule.

    Attributes:
        kind: "flow" (alpha + sigma = 1), "inverted flow" (the same, the scheduler's sigma being alpha),
            "variance preserving" (alpha^2 + sigma^2 = 1) or "exploding" (alpha = 1).
        predicts: what the scheduler calls the model's output.
        alphas, sigmas: (positions,), float64.
    """

    kind: Kind
    predicts: Target
    alphas: Tensor
    sigmas: Tensor

    def noised(self, latents: Tensor, noise: Tensor, positions: Tensor) -> Tensor:
        """z_t at `positions`, (B,), for `latents` and `noise`, both (B, ...)."""
        alpha, sigma = self._at(positions, latents)
        return alpha * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, positions: Tensor) -> Tensor:
        """What a perfect model's output would be for z_t of the same arguments, in the scheduler's terms."""
        alpha, sigma = self._at(positions, latents)
        velocity = noise if self.kind == "exploding" else noise - latents
        targets = {
            "velocity": -velocity if self.kind == "inverted flow" else velocity,
            "epsilon": noise,
            "v_prediction": (alpha * noise - sigma * latents) / self._norm(alpha, sigma),
            "sample": latents,
        }
        return targets[self.predicts]

    def clean(self, noised: Tensor, output: Tensor, positions: Tensor) -> Tensor:
        """The latents that z_t (`noised`) and a model output tell of: the inverse of `noised` and `target`."""
        alpha, sigma = self._at(positions, noised)
        sign, norm = -1 if self.kind == "inverted flow" else 1, self._norm(alpha, sigma)
        found = {
            "velocity": noised - sign * sigma * output,
            "epsilon": (noised - sigma * output) / alpha,
            "v_prediction": alpha * noised / norm**2 - sigma * output / norm,
            "sample": output,
        }
        return found[self.predicts]

    def gain(self, positions: Tensor) -> Tensor:
        """By how much an error of the model's output changes the clean latents, (B,)."""
        alpha, sigma = self.alphas[positions], self.sigmas[positions]
        gains = {"sample": torch.ones_like(sigma), "epsilon": sigma / alpha}
        gains["v_prediction"] = sigma / self._norm(alpha, sigma)
        return gains.get(self.predicts, sigma)

    def snr(self, positions: Tensor) -> Tensor:
        """alpha^2 / sigma^2, (B,)."""
        return (self.alphas[positions] / self.sigmas[positions]) ** 2

    def _norm(self, alpha: Tensor, sigma: Tensor) -> Tensor | float:
        """What alpha and sigma of a v-prediction are divided by; it is that of latents which a scheduler scales to 1."""
        return (alpha**2 + sigma**2).sqrt() if self.kind == "exploding" else 1.0

    def _at(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (like.ndim - 1))
        positions = positions.to(self.alphas.device)
        return self.alphas[positions].to(like).reshape(shape), self.sigmas[positions].to(like).reshape(shape)


def process_of(schedule: Schedule) -> Process:
    """The process of a measured schedule.

    Raises:
        WiringError: its scheduler is not diffusers' own, or is of none of the known kinds.
    """
    import diffusers

    scheduler_class = getattr(diffusers, schedule.scheduler, None)
    if scheduler_class is None:
        raise WiringError(f"{schedule.scheduler} is no scheduler of diffusers: its q(z_t | z) is not known")
    candidates = [] if _goes_anywhere(scheduler_class) else _candidates(schedule.config)
    for kind, predicts in candidates:
        scheduler = _started(scheduler_class.from_config(schedule.config))
        process = _process(kind, predicts, scheduler, _own_schedule(scheduler, schedule))
        if process is not None and _explains(process, scheduler):
            whole = _process(kind, predicts, scheduler, schedule)
            if whole is not None and _is_of_kind(whole):
                return whole
    raise WiringError(
        f"the q(z_t | z) of {schedule.scheduler} (prediction_type {schedule.config.get('prediction_type')!r}) is of no "
        "known kind: train on recorded trajectories"
    )


def _goes_anywhere(scheduler_class: Any) -> bool:
    """Whether a step leads to any time, so that the model's output is a mean over times that no single z_t tells."""
    return "r_timestep" in inspect.signature(scheduler_class.step).parameters


def _candidates(config: dict[str, Any]) -> Iterator[tuple[Kind, Target]]:
    named = config.get("prediction_type") or "flow_prediction"
    predicts: dict[str, Target] = {"flow_prediction": "velocity"}
    predicts |= {name: name for name in get_args(Target) if name != "velocity"}
    if named in predicts:
        for kind in get_args(Kind):
            if kind == "exploding" or (predicts[named] == "velocity") == ("flow" in kind):
                yield kind, predicts[named]


def _process(kind: Kind, predicts: Target, scheduler: Any, schedule: Schedule) -> Process | None:
    """The process if it is of `kind`; None if it has no such coefficients."""
    if kind == "variance preserving":
        cumulated = getattr(scheduler, "alphas_cumprod", None)
        times = schedule.timesteps.round().long()
        if cumulated is None or int(times.max()) >= len(cumulated) or int(times.min()) < 0:
            return None
        squared = cumulated.double().cpu()[times]
        return Process(kind, predicts, squared.sqrt(), (1 - squared).sqrt())
    if schedule.sigmas is None:
        return None
    sigmas = schedule.sigmas
    if kind == "exploding":
        return Process(kind, predicts, torch.ones_like(sigmas), sigmas)
    clean, noisy = (sigmas, 1 - sigmas) if kind == "inverted flow" else (1 - sigmas, sigmas)
    return Process(kind, predicts, clean, noisy)


def _is_of_kind(process: Process) -> bool:
    """Whether the coefficients are such as its kind has: the steps of a flow do not tell it from an exploding process,
    or from an inverted one."""
    loses_noise = float(process.sigmas[0]) > float(process.sigmas[-1])
    largest = float(process.sigmas.max())
    return loses_noise and (largest > 1 if process.kind == "exploding" else largest <= 1 + TOLERANCE)


def _started(scheduler: Any) -> Any:
    known = inspect.signature(scheduler.set_timesteps).parameters
    shifted = scheduler.config.get("use_dynamic_shifting") and "mu" in known
    scheduler.set_timesteps(TRIED_STEPS, **({"mu": 0.5} if shifted else {}))
    return scheduler


def _own_schedule(scheduler: Any, measured: Schedule) -> Schedule:
    times = torch.as_tensor(scheduler.timesteps).double()
    sigmas = torch.as_tensor(scheduler.sigmas)[: len(times)].double() if measured.sigmas is not None else None
    return Schedule(measured.scheduler, measured.config, times, sigmas)


def _explains(process: Process, scheduler: Any) -> bool:
    """Whether the scheduler's first step, given the target, leads to the same sample with less noise, or shows it."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(1, 4, 8, 8, generator=generator) - 0.5  # within what some schedulers clip to
    noise = torch.randn(latents.shape, generator=generator)
    now, then = torch.tensor([0]), torch.tensor([1])
    given = process.noised(latents, noise, now)
    try:
        if process.predicts == "sample" and not _is_noised(given, scheduler, latents, noise):
            return False  # whatever the latents were, such a step shows what it is given
        previous, shown = _stepped(scheduler, process.target(latents, noise, now), given, generator)
    except Exception:  # whatever a scheduler says to a step that it was not made for
        return False
    got, expected = (previous, process.noised(latents, noise, then)) if shown is None else (shown, latents)
    return torch.allclose(got, expected, atol=TOLERANCE * float(given.abs().max()))


def _is_noised(noised: Tensor, scheduler: Any, latents: Tensor, noise: Tensor) -> bool:
    """Whether the scheduler's own way to noise latents gives `noised` at its first timestep; it need not have one."""
    own = getattr(scheduler, "add_noise", None)
    if own is None:
        return True
    return torch.allclose(
        own(latents, noise, scheduler.timesteps[:1]), noised, atol=TOLERANCE * float(noised.abs().max())
    )


def _stepped(
    scheduler: Any, output: Tensor, latents: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """The latents after a step, and the clean ones that the scheduler sees in it if it says so."""
    known = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {"generator": generator} if "generator" in known else {}
    if "old_pred_original_sample" in known:  # a multistep solver that leaves its history to the caller
        extra |= {"old_pred_original_sample": None, "timestep_back": None}
    time = scheduler.timesteps[0]
    if hasattr(scheduler, "scale_model_input"):  # some keep count of it
        scheduler.scale_model_input(latents, time)
    out = scheduler.step(model_output=output, timestep=time, sample=latents, return_dict=True, **extra)
    if isinstance(out, tuple):
        return out[0], out[1] if len(out) > 1 else None
    return out.prev_sample, getattr(out, "pred_original_sample", None)
