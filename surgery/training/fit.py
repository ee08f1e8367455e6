"""Fitted starts: what is linear in the output of a new operator is solved for, before any training.

A new operator that takes over projections need not give results of the old one's scale. Its last linear map does not have
to be trained for that: the best one on some of the teacher's activations is a least-squares problem. What a site's last
linear maps are, and which few other weights its result is linear in, such as gates, is found by running it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from surgery.parallel.division import sum_over_all
from surgery.parallel.whole import divided_like, is_divided
from surgery.progress import Progress, SilentProgress
from surgery.training.apart import set_apart
from surgery.training.distil import STAGE, Pairs, Site, trainable, used_by
from surgery.training.fitted_parts import FewWeights, LastLinear, Part, Values
from surgery.training.optim import frozen_behaviour
from surgery.training.source import Forward, TrainingData

BATCHES = 4
"""Of the teacher's activations that are fitted to."""


@dataclass(frozen=True)
class Fitted:
    """The held-out loss of a site, before and after."""

    before: float
    after: float


def fit(
    teacher: nn.Module,
    student: nn.Module,
    sites: Sequence[Site],
    data: TrainingData,
    *,
    batch_size: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Fitted]:
    """Fit the student's new operators to the teacher's activations, in place, as far as that is a linear problem.

    The sums of the normal equations are kept, in float64, not the activations. Where the loss of the held-out samples is
    not lower afterwards, a site keeps the weights that it had.

    Args:
        teacher: only read.
        student: changed in place; of an operator that is a core, the linear map behind it may change as well.
        sites: see `sites_of`; those whose operators inherit "fitted" are.
        data: what the teacher runs on.
        batch_size: samples of a batch, as in distillation, which goes on with the same held-out ones.
        seed: of the batches.
        progress: shows how far it has come.

    Returns:
        The loss of each site.
    """
    sites = [site for site in sites if site.fitted]
    if not sites:
        return {}
    pairs = Pairs(teacher, student, sites)
    batches = data.source(teacher, stage=STAGE, batch_size=batch_size, seed=seed)
    judged = batches.held_out() or batches.training(BATCHES)
    kinds: tuple[tuple[type[Part], int], ...] = ((FewWeights, 1), (LastLinear, BATCHES))
    with (
        frozen_behaviour(teacher, student),
        torch.no_grad(),
        (progress or SilentProgress()).stage("fit", total=sum(count for _, count in kinds)) as bar,
    ):
        pairs.measure(batches.training(0))
        first = losses = _losses(pairs, judged)
        for kind, count in kinds:
            parts = {site.lesson.path: kind() for site in sites}
            for step in range(count):
                pairs.visit(batches.training(step), partial(_see, parts))
                bar.advance(loss=sum(losses.values()))
            found = _unshared({path: part.solved() for path, part in parts.items()})
            changing = {id(weight) for values in found.values() for weight, _ in values}
            set_apart({name: p for name, p in student.named_parameters() if id(p) in changing}, teacher)
            losses = _better(losses, found, lambda: _losses(pairs, judged))
    return {path: Fitted(before, losses[path]) for path, before in first.items()}


def may_be_fitted(student: nn.Module, sites: Sequence[Site]) -> set[str]:
    """The names of the weights among which are all that `fit` changes."""
    return {*trainable(student, used_by(site for site in sites if site.fitted))}


def _see(parts: Mapping[str, Part], site: Site, share: float) -> None:
    parts[site.lesson.path].see(site, share > 0)  # of several processes one may have nothing to do


def _losses(pairs: Pairs, batch: Sequence[Forward]) -> dict[str, float]:
    return {path: sum_over_all(loss.item()) for path, loss in pairs.losses(batch, backward=False).items()}


def _unshared(found: dict[str, Values]) -> dict[str, Values]:
    """Without weights that two sites have a solution for: what is best for one may be bad for the other."""
    sites = Counter(id(weight) for values in found.values() for weight, _ in values)
    return {path: [each for each in values if sites[id(each[0])] == 1] for path, values in found.items()}


def _better(
    before: dict[str, float], found: dict[str, Values], losses: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Put in what was found; sites whose losses do not fall get back what they had."""
    old = {path: [(weight, weight.clone()) for weight, _ in values] for path, values in found.items()}
    for values in found.values():
        _put(values)
    after = losses()
    for path, values in old.items():
        if not after[path] < before[path]:
            _put(values)
            after[path] = before[path]
    return after


def _put(values: Values) -> None:
    for weight, value in values:
        weight.copy_(value if is_divided(value) else divided_like(value, weight))
