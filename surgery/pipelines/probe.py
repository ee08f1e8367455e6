"""`surgery.measure`: the wiring of a pipeline, found by driving it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from surgery.errors import SurgeryError, WiringError
from surgery.pipelines.batching import Batching
from surgery.pipelines.drive import drive
from surgery.pipelines.experiment import Experiment, plan_of
from surgery.pipelines.learned import copies_of, latents_of, read_of, times_of, weights_of
from surgery.pipelines.opening import Opening, batching_of, opening, whole_schedule
from surgery.pipelines.parts import Branch, Schedule
from surgery.pipelines.replay import replay
from surgery.pipelines.tree import prediction, tensors_in
from surgery.pipelines.wiring import Wiring


def measure(pipeline: Any, call: Mapping[str, Any]) -> Wiring:
    """Find out how `pipeline` feeds its denoiser for latents of the size that `call` gives.

    The pipeline is run four times over its whole schedule. Its denoiser really runs in a few steps only; elsewhere it
    is stood in for, so a run is quick at any size. The wiring has then given every argument of a run to the bit.

    Args:
        pipeline: of diffusers, or any callable with `components` and a `scheduler` that has `step`.
        call: keywords of the pipeline for one sample.

    Returns:
        The wiring, on the CPU wherever the pipeline is; see `Wiring.to`.

    Raises:
        WiringError: the pipeline cannot be run, or feeds its denoiser in a way that is no wiring; the argument is named.
    """
    reason: Exception | None = None
    for whole in whole_schedule(pipeline, call):
        try:
            return _measured(pipeline, whole)
        except SurgeryError:
            raise
        except Exception as error:  # whatever a pipeline says to a call, or a solver to a schedule as long as this
            reason = reason or error
    raise WiringError(f"{type(pipeline).__name__} does not run: {reason!r}") from reason


def _measured(pipeline: Any, call: Mapping[str, Any]) -> Wiring:
    first = opening(pipeline, call)
    batching = batching_of(pipeline, call, first)
    if batching.odd and max(first.rows) > 1:
        raise WiringError(f"the rows of one forward cannot be told apart: {batching.odd[0]}")
    wiring = _assembled(pipeline, _experiment(pipeline, call, first, batching), first, batching)
    return replay(pipeline, call, first, wiring)


def _experiment(pipeline: Any, call: Mapping[str, Any], first: Opening, batching: Batching) -> Experiment:
    predicted = sum(t.numel() for t in tensors_in(prediction(first.step.calls[0].output))) // first.rows[0]
    plan = plan_of(first.step.sample.numel(), predicted, sum(first.rows), torch.Generator().manual_seed(0))
    experiment = Experiment(first, batching, plan)
    drive(pipeline, call, experiment)
    if len(experiment.schedule) <= len(plan.feeds):  # what changes with the time is seen after them
        raise WiringError(
            f"{type(pipeline).__name__} made {len(experiment.schedule)} steps, {len(plan.feeds) + 1} are needed: "
            "record trajectories instead"
        )
    return experiment


def _assembled(pipeline: Any, experiment: Experiment, first: Opening, batching: Batching) -> Wiring:
    copies = copies_of(experiment)
    sample = first.step.sample
    elements = sample.numel() // copies
    latents, times = latents_of(experiment, elements), times_of(experiment)
    read = read_of(experiment)
    weights, linear = weights_of(experiment, read)
    branches: list[Branch] = []
    for call, rows in enumerate(first.rows):
        models = tuple(names[call] for _, _, names in experiment.schedule)
        for row in range(rows):
            b = len(branches)
            own = {path: affine for (at, path), affine in latents.items() if at == b}
            tables = {path: table for (at, path), table in times.items() if at == b}
            branches.append(Branch(call, row, weights[b], models, own, tables))
    wiring = Wiring(
        type(pipeline).__name__, tuple(sample.shape[1:]), _widest(experiment), copies,
        experiment.scalings.found(len(experiment.schedule)), _schedule(pipeline, experiment), tuple(branches), linear,
        read, batching, (),
    )  # fmt: skip
    return wiring.with_conditions(experiment.parts[0])


def _widest(experiment: Experiment) -> torch.dtype:
    """The dtype that holds all latents of a run; some schedulers give them back in another than they got."""
    return functools.reduce(torch.promote_types, (seen.sample.dtype for seen in experiment.seen))


def _schedule(pipeline: Any, experiment: Experiment) -> Schedule:
    times = torch.tensor([timestep for timestep, _, _ in experiment.schedule], dtype=torch.float64)
    sigmas = [sigma for _, sigma, _ in experiment.schedule if sigma is not None]
    known = torch.tensor(sigmas, dtype=torch.float64) if len(sigmas) == len(times) else None
    return Schedule(type(pipeline.scheduler).__name__, dict(pipeline.scheduler.config), times, known)
