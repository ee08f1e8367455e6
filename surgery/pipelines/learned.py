"""What an experiment tells: which argument comes from the latents, which from the time, and the way back."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.affine import Affine, learn
from surgery.pipelines.experiment import Experiment, Key
from surgery.pipelines.table import Table
from surgery.pipelines.tree import leaves, same


def copies_of(experiment: Experiment) -> int:
    """How often the scheduler's sample holds the latents: some pipelines double them for guidance before the step.

    Raises:
        WiringError: the sample is not what the step before gave.
    """
    seen, plan = experiment.seen, experiment.plan
    sample = seen[0].sample
    for copies in (copies for copies in range(1, len(sample) + 1) if len(sample) % copies == 0):
        used = len(sample) // copies
        if all(_repeats(seen[p].sample, _fed(experiment, p), copies) for p in (*plan.digits, *plan.checks)):
            if used != 1:
                raise WiringError(f"the call makes {used} samples: measure with one")
            return copies
    raise WiringError(
        "the pipeline changes the latents between two steps of its scheduler: record trajectories instead"
    )


def _repeats(sample: Tensor, fed: Tensor, copies: int) -> bool:
    """Whether `sample` is the first part of `fed`, `copies` times."""
    part = fed.reshape(sample.shape).to(sample)[: len(sample) // copies]
    return torch.equal(sample, torch.cat([part] * copies))


def latents_of(experiment: Experiment, elements: int) -> dict[Key, Affine]:
    """What comes from the latents, of which there are `elements`.

    Raises:
        WiringError: an argument changes with the latents, and is no affine map of them.
    """
    found: dict[Key, Affine] = {}
    tables = [[leaves(arguments) for arguments in parts] for parts in experiment.parts]
    for branch, arguments in enumerate(tables[experiment.plan.zero]):
        for path, leaf in arguments.items():
            values = [table[branch].get(path) for table in tables]
            if (branch, path) in experiment.changes or all(same(leaf, value) for value in values):
                continue
            if not all(isinstance(v, Tensor) and v.shape == leaf.shape and v.dtype == leaf.dtype for v in values):
                raise WiringError(f"argument {path} changes its kind, shape or dtype from step to step")
            found[branch, path] = _from_latents(experiment, path, values, elements)
    return found


def _from_latents(experiment: Experiment, path: str, values: list[Any], elements: int) -> Affine:
    plan = experiment.plan
    affine, start = learn(values[plan.zero], values[plan.one], [values[p] for p in plan.digits], elements)
    if bool((start != 0)[~affine.fixed].any()):
        raise WiringError(f"argument {path} is a sum of latents and something else: record trajectories instead")
    constants = values[plan.zero].reshape(-1)[affine.fixed]
    sources = {0: experiment.seen[0].sample} | {p: _fed(experiment, p) for p in (*plan.checks, plan.mixed)}
    for position, source in sources.items():
        flat = source.reshape(-1)[:elements].to(experiment.seen[position].sample)
        if not same(affine(flat, constants), values[position]):
            raise WiringError(f"argument {path} is no affine map of the latents: record trajectories instead")
    return affine


def times_of(experiment: Experiment) -> dict[Key, Table]:
    """What depends on the position in the schedule alone; that it does is for a replay to show.

    Raises:
        WiringError: an argument changes its kind or shape from step to step.
    """
    planned = [[leaves(arguments) for arguments in parts] for parts in experiment.parts]
    for (branch, path), history in experiment.changes.items():
        for position, parts in enumerate(planned):
            history.note(position, parts[branch].get(path))
    return {key: history.table() for key, history in experiment.changes.items()}


def read_of(experiment: Experiment) -> Affine:
    """The way from one prediction to the model output that the scheduler gets, without guidance.

    Raises:
        WiringError: it is no affine map of the prediction that all latents' elements have a part in.
    """
    plan = experiment.plan
    outputs = [_output(experiment, position) for position in range(len(plan.feeds))]
    predicted = plan.feeds[plan.zero].predictions[0].numel()
    affine, _ = learn(outputs[plan.zero], outputs[plan.one], [outputs[p] for p in plan.digits], predicted)
    affine = dataclasses.replace(affine, scale=_snapped(affine.scale, outputs[plan.zero].dtype))
    if bool(affine.fixed.any()):
        raise WiringError("a part of the model output does not come from the prediction: record trajectories instead")
    for position in plan.checks:
        own = affine(plan.feeds[position].predictions[0].to(outputs[position].dtype))
        if not torch.allclose(own, outputs[position], rtol=0, atol=_tolerance(outputs[position])):
            raise WiringError("the model output is no affine map of the prediction: record trajectories instead")
    return affine


def weights_of(experiment: Experiment, read: Affine) -> tuple[list[float], bool]:
    """The weight of each branch's prediction in the model output, and whether this is their weighted sum."""
    plan = experiment.plan
    unit = _output(experiment, plan.zero).double()
    weights = [float((_output(experiment, p).double() / unit).mean()) - 1 for p in plan.single]
    got = _output(experiment, plan.mixed)
    mixed = zip(weights, plan.feeds[plan.mixed].predictions, strict=True)
    own = sum(weight * read(out.to(got.dtype)).double() for weight, out in mixed)
    tolerance = _tolerance(got) * sum(map(abs, weights))
    return weights, bool(torch.allclose(torch.as_tensor(own), got.double(), rtol=0, atol=tolerance))


def _output(experiment: Experiment, position: int) -> Tensor:
    """What the scheduler got as the model's output, in the layout of the latents without copies."""
    seen = experiment.seen[position]
    if not isinstance(seen.model_output, Tensor) or seen.model_output.shape != seen.sample.shape:
        raise WiringError("the model output is not of the latents' shape: record trajectories instead")
    return seen.model_output[:1].reshape(seen.sample.shape[1:])


def _fed(experiment: Experiment, position: int) -> Tensor:
    latents = experiment.plan.feeds[position].latents
    if latents is None:
        raise AssertionError("no latents were fed there")
    return latents


def _snapped(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Factors that guidance's rounding moved away from 1 or -1, back on it."""
    near = (scale.abs() - 1).abs() <= 16 * torch.finfo(dtype).eps
    snapped = torch.where(near, scale.sign(), scale)
    return snapped.reshape(-1)[0] if bool((snapped == snapped.reshape(-1)[0]).all()) else snapped


def _tolerance(values: Tensor) -> float:
    return 16 * torch.finfo(values.dtype).eps * float(values.abs().max())
