"""The effect of edits, each made alone: at its site, on the model's output, on the loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from surgery.graph import ModelGraph
from surgery.pipelines.tree import tensors_in
from surgery.progress import Progress
from surgery.rewriting.commit import commit
from surgery.sensitivity.grafting import Group, grafts, put_in
from surgery.sensitivity.library import GraftLibrary, key_of
from surgery.training.checkpoint import digest
from surgery.training.distil import STAGE, Distil, Site, sites_of
from surgery.training.optim import frozen_behaviour
from surgery.training.source import Forward, TrainingData, predict

EFFECT = "effect"
"""The name of the note in the library."""


@dataclass(frozen=True)
class Effect:
    """What a group of edits does, once its operators are distilled, on samples that these were not distilled on.

    Attributes:
        site: the error of the new operators' results on the teacher's activations, over the norm of the old ones'; the
            mean over sites, 0 without new weights.
        output: that of the model's output.
        loss: the denoising loss.
        rise: that loss without the teacher's.
    """

    site: float
    output: float
    loss: float
    rise: float


def sensitivity(
    graph: ModelGraph,
    groups: Sequence[Group],
    data: TrainingData,
    config: Distil,
    *,
    seed: int,
    progress: Progress,
    library: GraftLibrary | None = None,
) -> list[Effect]:
    """The effect of each group of edits, made alone on the teacher.

    Operators are distilled first, see `grafts`; one pass of the teacher gives the errors at all sites, and one forward
    with each group those of the output. With a library, effects are kept as well.

    Args:
        graph: of the teacher, which is only read.
        groups: one edit each, or several that are made together; see `surgery.sensitivity.grafting.candidates`.
        data, config, seed, progress, library: see `grafts`.

    Raises:
        SurgeryError: see `grafts`.
    """
    learnt = grafts(graph, groups, data, config, seed=seed, progress=progress, library=library)
    teacher = digest(graph.model.state_dict())
    keys = [key_of(group, teacher, data, config, seed)[0] for group in groups]
    found = _noted(library, keys)
    todo = [n for n, key in enumerate(keys) if key not in found]
    if todo:
        students = [commit(graph, groups[n], seed, shared=True) for n in todo]
        for n, student in zip(todo, students, strict=True):
            put_in(student, learnt[n].weights)
        measured = _measured(graph.model, students, [groups[n] for n in todo], data, config, seed, progress)
        for n, effect in zip(todo, measured, strict=True):
            found[keys[n]] = effect
            if library is not None:
                library.note(keys[n], EFFECT, asdict(effect))
    return [found[key] for key in keys]


def _noted(library: GraftLibrary | None, keys: Sequence[str]) -> dict[str, Effect]:
    """The effects that the library has."""
    notes = {key: library.describe(key).get("notes", {}) for key in keys} if library is not None else {}
    return {key: Effect(**note[EFFECT]) for key, note in notes.items() if EFFECT in note}


def _measured(
    teacher: nn.Module, students: Sequence[nn.Module], groups: Sequence[Group], data: TrainingData, config: Distil,
    seed: int, progress: Progress,
) -> list[Effect]:  # fmt: skip
    batches = data.source(teacher, stage=STAGE, batch_size=config.batch_size, seed=seed, noising=config.noising)
    batch = batches.held_out() or batches.training(config.steps)
    sites = [sites_of(group, teacher, student) for group, student in zip(groups, students, strict=True)]
    with frozen_behaviour(teacher, *students), torch.no_grad():
        at_sites, outputs = _at_sites(teacher, sites, batch)
        before = sum(f.share * float(f.loss(out)) for f, out in zip(batch, outputs, strict=True))
        effects = []
        with progress.stage("sensitivity", total=len(students)) as bar:
            for student, error in zip(students, at_sites, strict=True):
                after = [predict(student, forward.inputs) for forward in batch]
                loss = sum(f.share * float(f.loss(out)) for f, out in zip(batch, after, strict=True))
                effects.append(Effect(error, _relative(after, outputs), loss, loss - before))
                bar.advance()
    return effects


def _at_sites(
    teacher: nn.Module, sites: Sequence[Sequence[Site]], batch: Sequence[Forward]
) -> tuple[list[float], list[Tensor]]:
    """The errors at the sites of each group, from one pass of the teacher over `batch`, and the teacher's outputs."""
    squares: dict[int, list[float]] = {}

    def compare(site: Site) -> None:
        new, old = (tensors_in(value) for value in site.lesson.outcome())
        known = squares.setdefault(id(site), [0.0, 0.0])
        known[0] += sum(float((a.double() - b.double()).square().sum()) for a, b in zip(new, old, strict=True))
        known[1] += sum(float(b.double().square().sum()) for b in old)

    outputs = []
    for forward in batch:
        with ExitStack() as hooks:
            for site in (site for group in sites for site in group):
                site.lesson.watch(hooks, partial(compare, site))
            outputs.append(predict(teacher, forward.inputs))
    ratios = [[_ratio(*squares[id(site)]) for site in group] for group in sites]
    return [sum(group) / max(len(group), 1) for group in ratios], outputs


def _relative(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The norm of the difference over that of what is wanted."""
    pairs = [(a.double(), b.double()) for a, b in zip(outputs, wanted, strict=True)]
    return _ratio(sum(float((a - b).square().sum()) for a, b in pairs), sum(float(b.square().sum()) for _, b in pairs))


def _ratio(error: float, whole: float) -> float:
    """Of two sums of squares, as norms."""
    return float((error / max(whole, torch.finfo(torch.float64).tiny)) ** 0.5)
