"""Stage 2: the student is trained end to end; the average of its weights is kept.

Grafting, arXiv 2506.05340, section on lightweight finetuning: AdamW without weight decay, warm-up, EMA, the diffusion
loss. Imitating the teacher instead has less noise in its gradient, and gets further in a short training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PlainSerializer, PositiveFloat
from torch import Tensor, nn

from surgery.pipelines.times import AnyLossWeight
from surgery.progress import Progress, SilentProgress
from surgery.training.apart import set_apart
from surgery.training.checkpoint import CheckpointStore, digest
from surgery.training.config import StageConfig
from surgery.training.ema import Ema
from surgery.training.held import held, set_aside
from surgery.training.learning import rates, recomputing
from surgery.training.loop import Task, identity_of, train
from surgery.training.lora import LoRA, adapted
from surgery.training.objective import NAMED, Objective, Target, TargetName
from surgery.training.optim import frozen_behaviour, requiring_grad
from surgery.training.record import LossRecord
from surgery.training.source import Noising, Source, TrainingData, batch_loss

STAGE = "finetune"


def _as_mapping(value: Any) -> Any:
    is_listed = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    return dict(value) if is_listed else value


Rates = Annotated[
    Mapping[str, NonNegativeFloat],
    BeforeValidator(_as_mapping),
    PlainSerializer(lambda given: [list(pair) for pair in given.items()], when_used="json"),
]
"""A pydantic field for factors by patterns, the first that fits counting: pairs in JSON, as keys there have no order."""


class Finetune(StageConfig):
    """How a student is finetuned; see `StageConfig`. The decay of the average warms up and stays.

    Attributes:
        target: what the student learns: to predict from the "data" the noise (or sample, or velocity) that was put in, to
            imitate the "teacher", which is its prediction and block outputs alike, or a `Target` with weights.
        weights: how much the errors against the data count at each time; None weighs all alike.
        inherited_lr: a factor on the learning rate of the weights that were the teacher's, which need less of it than
            those of new operators; 0 freezes them, which saves their gradients, moments and averages too. With `lora`
            they are frozen whatever it is.
        rates: other factors, by patterns of parameters' names such as "*.norm1.*"; the first that fits counts, 0 freezes.
        lora: adapts inherited linear layers instead of training inherited weights; adapters are new weights, as those of
            new operators, and both are trained in full.
        weight_decay: of matrices and filters, at each step times the learning rate.
        ema_decay: the largest decay of the moving average of the weights, see `surgery.training.ema`.
        ema_device: where the average is kept, e.g. "cpu"; None keeps it where the student is.
        checkpointing: recomputes blocks in the backward pass instead of keeping their activations.
    """

    steps: NonNegativeInt = 200
    lr: PositiveFloat = 1e-4
    clip: PositiveFloat = 1.0
    target: TargetName | Target = "data"
    weights: AnyLossWeight | None = None
    inherited_lr: NonNegativeFloat = 1.0
    rates: Rates = Field(default={})
    lora: LoRA | None = None
    weight_decay: NonNegativeFloat = 0.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    ema_device: str | None = None
    checkpointing: bool = False

    @property
    def noising(self) -> Noising:
        """How its batches are noised."""
        return Noising(self.times, self.weights, self.micro_batch)

    @property
    def parts(self) -> Target:
        """The target by its weights."""
        return NAMED[self.target] if isinstance(self.target, str) else self.target


def finetune(
    teacher: nn.Module,
    student: nn.Module,
    new: Collection[str],
    data: TrainingData,
    config: Finetune,
    *,
    seed: int,
    checkpoints: CheckpointStore | None = None,
    progress: Progress | None = None,
    show: Callable[[int], None] | None = None,
    log: Callable[[LossRecord], None] | None = None,
) -> list[LossRecord]:
    """Train the student end to end, as far as `config` lets it learn.

    At the end the student holds the moving average of its weights. The held-out loss is measured with it too, and
    against the data whatever the target.

    Args:
        teacher: only read, and only if it is part of the target.
        student: changed in place.
        new: the paths of its new operators; all else is inherited.
        data: what z_t is made from, and how.
        config: how long, how fast, and on what.
        seed: of the batches.
        checkpoints: where to continue from and to write to; None writes none.
        progress: shows how far the training has come.
        show: is called with the number of steps done when samples are to be drawn; the student is its average then.
        log: is called with the record of each step.

    Returns:
        the losses of each step.

    Raises:
        RecipeError: see `require_learnable`; or the class of the student cannot be checkpointed.
        TrainingError, ArtifactError: see `surgery.training.loop.train`.
    """
    with adapted(student, config.lora, new, seed), learning(teacher, student, new, config) as learns:
        set_apart(learns.parameters, teacher)
        batches = data.source(student, stage=STAGE, batch_size=config.batch_size, seed=seed, noising=config.noising)
        ema = Ema(learns.parameters, config.ema_decay, config.ema_device)
        identity = _identity(teacher, student, new, data, config, learns, seed)
        with _objective(teacher, student, batches, config) as objective:
            task = Task(
                stage=STAGE,
                config=config,
                model=student,
                parameters=learns.parameters,
                batch=batches.training,
                backward=partial(backward, objective, batches),
                validate=partial(_validate, student, batches),
                identity=identity,
                ema=ema,
                scales=learns.scales,
                weight_decay=config.weight_decay,
                show=show,
                log=log,
            )
            records = train(task, checkpoints, progress or SilentProgress())
        ema.write_to_parameters()
    return records


@contextmanager
def _objective(teacher: nn.Module, student: nn.Module, batches: Source, config: Finetune) -> Iterator[Objective]:
    """The loss, while the teacher is held as `config` says."""
    run: Any = torch.compile(student) if config.compile else student
    blocks = config.parts.imitated(teacher, student, batches)
    config.parts.require(blocks)
    with (
        set_aside(student, [student], config.teacher_weights is not None),
        held(teacher, config.teacher_weights),
        closing(Objective(config.parts, teacher, student, run, blocks, batches)) as objective,
    ):
        yield objective


@dataclass(frozen=True)
class Learning:
    """What of a student learns.

    Attributes:
        parameters, frozen: by name.
        scales: the factor on the learning rate of each parameter.
    """

    parameters: dict[str, nn.Parameter]
    frozen: dict[str, nn.Parameter]
    scales: dict[str, float]


@contextmanager
def learning(teacher: nn.Module, student: nn.Module, new: Collection[str], config: Finetune) -> Iterator[Learning]:
    """Prepares both models for the stage while the block runs, the student with its adapters; see `finetune`."""
    with (
        frozen_behaviour(teacher, student),
        recomputing(student, config.checkpointing),
    ):
        scales = rates(student, new, config.rates, config.inherited_lr, config.lora is not None)
        named = dict(student.named_parameters())
        parameters = {name: named[name] for name, scale in scales.items() if scale}
        frozen = {name: named[name] for name, scale in scales.items() if not scale}
        with requiring_grad(frozen.values(), False):
            yield Learning(parameters, frozen, scales)


def _identity(
    teacher: nn.Module,
    student: nn.Module,
    new: Collection[str],
    data: TrainingData,
    config: Finetune,
    learns: Learning,
    seed: int,
) -> dict[str, object]:
    """All that the outcome depends on and a checkpoint does not hold; the teacher only if the student learns from it."""
    return identity_of(
        config,
        data,
        learns.parameters,
        seed=seed,
        new=sorted(new),
        buffers=digest(dict(student.named_buffers())),
        frozen=digest(learns.frozen) if learns.frozen else None,
        teacher=None if config.parts == NAMED["data"] else digest(teacher.state_dict()),
    )


def require_learnable(student: nn.Module, new: Collection[str], config: Finetune) -> set[str]:
    """The names of what is to be trained, that of adapters included.

    Raises:
        RecipeError: nothing is, or a pattern fits nothing.
    """
    with adapted(student, config.lora, new, seed=0, merge=False):
        found = rates(student, new, config.rates, config.inherited_lr, config.lora is not None)
    return {name for name, rate in found.items() if rate}


def backward(objective: Objective, batches: Source, step: int) -> dict[str, Tensor]:
    """Add the gradients of a step; its loss."""
    terms = []
    for forward in batches.training(step):
        term = forward.share * objective.loss(forward)
        term.backward()  # type: ignore[no-untyped-call]
        terms.append(term.detach())
    return {"": torch.stack(terms).sum()}


def _validate(student: nn.Module, batches: Source) -> float | None:
    batch = batches.held_out()
    return batch_loss(student, batch) if batch else None
