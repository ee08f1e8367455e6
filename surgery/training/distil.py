"""Stage 1: each new operator learns the output of the one that it replaces (activation distillation).

Grafting, arXiv 2506.05340, equation 2: minimise over the operator g the expectation, over z_t with t ~ q(t), of
L(g(z_t, t, c), f(z_t, t, c)), f being the teacher's operator. Both see the teacher's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from surgery.errors import RewriteError
from surgery.losses import LOSSES, Loss, LossName
from surgery.parallel.division import sum_over_all
from surgery.parallel.group import add_up
from surgery.pipelines.tree import tensors_in
from surgery.progress import Progress, SilentProgress
from surgery.rewriting import Edit
from surgery.rewriting.lesson import Lesson
from surgery.training.apart import set_apart
from surgery.training.checkpoint import CheckpointStore, digest
from surgery.training.compiled import compiled, unwatched
from surgery.training.config import StageConfig
from surgery.training.held import held, set_aside
from surgery.training.loop import Task, identity_of, together, train
from surgery.training.optim import frozen_behaviour
from surgery.training.record import LossRecord
from surgery.training.source import Forward, Source, TrainingData, predict

STAGE = "distil"


class Distil(StageConfig):
    """How operators are distilled; see `StageConfig`.

    Attributes:
        library: a folder of operators that were distilled before, by this recipe or any other that asks for the same:
            operator, site, teacher, data, budget and seed. What is missing is distilled and added. `clip` then holds for
            each operator by itself.
    """

    steps: NonNegativeInt = 300
    lr: PositiveFloat = 1e-3
    clip: PositiveFloat = 10.0
    library: Path | None = None

    @property
    def sets_aside(self) -> bool:
        """Whether what of a student is not distilled waits in the host's memory; samples of it would need all."""
        return self.teacher_weights is not None and self.sample_every is None


@dataclass(frozen=True)
class Site:
    """One lesson, and the loss that it is learnt by; whether it starts fitted, see `surgery.training.fit`."""

    lesson: Lesson
    loss: LossName
    fitted: bool = False

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            known = ", ".join(LOSSES)
            raise RewriteError(f"site {self.lesson.path}: unknown loss {self.loss!r}, choose one of {known}")


def sites_of(edits: Iterable[Edit], teacher: nn.Module, student: nn.Module) -> list[Site]:
    """What the new operators of `edits` are to learn. An edit without new weights, such as a dropped block, is not in it.

    Raises:
        RewriteError: a module is missing in one of the models.
    """
    return [
        Site(lesson, edit.loss, any(new.inherit == "fitted" for new in edit.made))
        for edit in edits
        for lesson in edit.lessons(teacher, student)
    ]


def distil(
    teacher: nn.Module,
    student: nn.Module,
    sites: Sequence[Site],
    data: TrainingData,
    config: Distil,
    *,
    seed: int,
    checkpoints: CheckpointStore | None = None,
    progress: Progress | None = None,
    show: Callable[[int], None] | None = None,
    clip_by: Callable[[str], str] = together,
    log: Callable[[LossRecord], None] | None = None,
) -> list[LossRecord]:
    """Train the student's new operators on the teacher's activations.

    One pass of the teacher in a step feeds all sites: while it runs, each new operator is called with the arguments that
    the teacher's was called with, and its loss is differentiated at once, so only one site's activations are held. The
    terms are summed, each as a share of the loss that zeros have in the first batch, so that they can be compared. All
    else in the student, and all of the teacher, stays as it is.

    Args:
        teacher: only read.
        student: changed in place.
        sites: what is learnt, see `sites_of`.
        data: what z_t is made from, and how.
        config: how long and how fast.
        seed: of the batches.
        checkpoints: where to continue from and to write to; None writes none.
        progress: shows how far the training has come.
        show: is called with the number of steps done when samples are to be drawn.
        clip_by: see `surgery.training.loop.Task`.
        log: is called with the record of each step.

    Returns:
        The losses of each step.

    Raises:
        RewriteError: a site does not run in the teacher, or its results cannot be compared.
        TrainingError, ArtifactError: see `surgery.training.loop.train`.
    """
    pairs = Pairs(teacher, student, sites)
    batches = data.source(teacher, stage=STAGE, batch_size=config.batch_size, seed=seed, noising=config.noising)
    task = Task(
        stage=STAGE,
        config=config,
        model=student,
        parameters=pairs.parameters,
        batch=batches.training,
        backward=lambda step: pairs.losses(batches.training(step), backward=True),
        validate=partial(_validate, pairs, batches),
        identity=identity_of(
            config,
            data,
            pairs.parameters,
            seed=seed,
            sites={site.lesson.path: site.loss for site in sites},
            teacher=digest(teacher.state_dict()),
        ),
        show=show,
        clip_by=clip_by,
        log=log,
    )
    with _teaching(teacher, student, sites, config):
        pairs.measure(batches.training(0))
        with compiled(pairs.parts if config.compile else ()):
            return train(task, checkpoints, progress or SilentProgress())


@contextmanager
def _teaching(teacher: nn.Module, student: nn.Module, sites: Sequence[Site], config: Distil) -> Iterator[None]:
    """Prepares both models for the stage while the block runs."""
    with (
        frozen_behaviour(teacher, student),
        set_aside(student, used_by(sites), config.sets_aside),
        held(teacher, config.teacher_weights),
    ):
        yield


def _validate(pairs: Pairs, batches: Source) -> float | None:
    batch = batches.held_out()
    return sum_over_all(sum(t.item() for t in pairs.losses(batch, backward=False).values())) if batch else None


class Pairs:
    """The operators of teacher and student at each site.

    Losses are as they are until `measure` has been called, then shares.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, sites: Sequence[Site]) -> None:
        self._teacher, self._sites = teacher, sites
        self._scales: dict[str, float] = {}
        self.parameters = trainable(student, [module for site in sites for module in site.lesson.modules])
        if not self.parameters:
            raise RewriteError(f"nothing to distil: no parameter in the student at sites {self._paths}")
        set_apart(self.parameters, teacher)

    @property
    def _paths(self) -> list[str]:
        return [site.lesson.path for site in self._sites]

    def measure(self, batch: Sequence[Forward]) -> None:
        """Make 1 of the loss that an output of zeros has at each site on a batch, of which each process has its part.

        A site whose old operator gives zeros keeps its loss as it is.
        """
        found: dict[str, Tensor] = {}
        self.visit(batch, partial(_add_zeros, found))
        add_up([*found.values()])
        self._scales = {path: float(loss) or 1.0 for path, loss in found.items()}

    @property
    def parts(self) -> Iterator[nn.Module]:
        """The new operators, and the largest modules of the teacher in which none is watched."""
        with ExitStack() as hooks:
            for site in self._sites:
                site.lesson.watch(hooks, lambda: None)
            yield from unwatched(self._teacher)
        yield from (module for site in self._sites for module in site.lesson.called)

    def losses(self, batch: Sequence[Forward], *, backward: bool) -> dict[str, Tensor]:
        """The loss of each site, a scalar, from one pass of the teacher over a batch; if `backward`, its gradients are
        added."""
        losses: dict[str, Tensor] = {}

        def learn(site: Site, share: float) -> None:
            _learn(site, losses, share / self._scales.get(site.lesson.path, 1.0), backward)

        self.visit(batch, learn)
        missing = [path for path in self._paths if path not in losses]
        if missing:
            raise RewriteError(f"site {missing[0]} did not run in the teacher's forward: it cannot be distilled")
        return {path: losses[path] for path in self._paths}

    def visit(self, batch: Sequence[Forward], see: Callable[[Site, float], None]) -> None:
        """Run the teacher on a batch; `see` is called at each site, with the share of the batch that a forward has."""
        for forward in batch:
            with ExitStack() as hooks, torch.no_grad():
                for site in self._sites:
                    site.lesson.watch(hooks, partial(see, site, forward.share))
                predict(self._teacher, forward.inputs)


def _learn(site: Site, losses: dict[str, Tensor], factor: float, backward: bool) -> None:
    """Add the loss of the new output against the old one to `losses`, times `factor`, and its gradients if `backward`."""
    with torch.set_grad_enabled(backward):
        new, old = site.lesson.outcome()
        term = factor * _regression(site.lesson.path, new, old, LOSSES[site.loss])
    if term.requires_grad:
        term.backward()  # type: ignore[no-untyped-call]
    _add(losses, site.lesson.path, term.detach())


def _add_zeros(losses: dict[str, Tensor], site: Site, share: float) -> None:
    """Add `share` of the loss of zeros against the old output to `losses`."""
    _, old = site.lesson.outcome()
    zeros = [torch.zeros_like(tensor) for tensor in tensors_in(old)]
    _add(losses, site.lesson.path, share * _regression(site.lesson.path, zeros, old, LOSSES[site.loss]))


def _add(losses: dict[str, Tensor], path: str, term: Tensor) -> None:
    losses[path] = losses[path] + term if path in losses else term


def _regression(path: str, output: Any, target: Any, loss: Loss) -> Tensor:
    """Return the sum of the losses of all tensors in the output, each against its twin in the target."""
    outputs, targets = tensors_in(output), tensors_in(target)
    shapes, wanted = [tuple(t.shape) for t in outputs], [tuple(t.shape) for t in targets]
    if shapes != wanted or not wanted:
        raise RewriteError(f"site {path}: the new operator returns shapes {shapes}, the teacher's returns {wanted}")
    pairs = zip(outputs, targets, strict=True)
    return torch.stack([loss(_precise(a), _precise(b)) for a, b in pairs]).sum()


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def used_by(sites: Iterable[Site]) -> list[nn.Module]:
    """What of the student is called or learns."""
    return [module for site in sites for module in (*site.lesson.called, *site.lesson.modules)]


def trainable(student: nn.Module, operators: list[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of `operators`, by their names in the student."""
    wanted = {id(parameter) for operator in operators for parameter in operator.parameters()}
    return {n: p for n, p in student.named_parameters() if id(p) in wanted and p.is_floating_point()}
