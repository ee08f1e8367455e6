"""Stage 2: the whole student is trained end to end; the average of its weights is kept.

Grafting, arXiv 2506.05340, section on lightweight finetuning: AdamW without weight decay, warm-up, EMA, the diffusion
loss. Imitating the teacher instead has less noise in its gradient, and gets further in a short training.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from surgery.errors import TrainingError
from surgery.progress import Progress, SilentProgress
from surgery.training.batches import Batches
from surgery.training.checkpoint import CheckpointStore, digest
from surgery.training.data import LatentDataset
from surgery.training.diffusion import NoisedBatch, denoising_loss, predict
from surgery.training.ema import Ema
from surgery.training.imitate import blocks_to_imitate, imitation_loss
from surgery.training.loop import StageConfig, Task, identity_of, train
from surgery.training.optim import frozen_behaviour, requiring_grad, warmup_cosine
from surgery.training.record import LossRecord
from surgery.training.scheduler import Scheduler

STAGE = "finetune"
NOTHING_TO_TRAIN = "inherited_lr is 0 and there are no new operators, so nothing is left to train; give another factor"


class Finetune(StageConfig):
    """How a student is finetuned; see `StageConfig`.

    The learning rate warms up, then falls to 0 along a cosine, which a short training gains from; the decay of the
    average warms up and stays.

    Attributes:
        ema_decay: the largest decay of the moving average of the weights, see `surgery.training.ema`.
        target: what the student learns: to predict from the "data" the noise (or sample, or velocity) that was put in, or
            to imitate the "teacher", see `surgery.training.imitate`.
        inherited_lr: a factor on the learning rate of the weights that were the teacher's, which need less of it than
            those of new operators; 0 freezes them, which saves their gradients, moments and averages too.
    """

    steps: PositiveInt = 200
    lr: PositiveFloat = 1e-4
    clip: PositiveFloat = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    target: Literal["data", "teacher"] = "data"
    inherited_lr: NonNegativeFloat = 1.0


def finetune(
    teacher: nn.Module,
    student: nn.Module,
    new: Collection[str],
    dataset: LatentDataset,
    scheduler: Scheduler,
    config: Finetune,
    *,
    seed: int,
    checkpoints: CheckpointStore | None = None,
    progress: Progress | None = None,
) -> list[LossRecord]:
    """Train the student end to end: all of its parameters, or those of its new operators.

    At the end the student holds the moving average of its weights. The held-out loss is measured with it too, and
    against the data whatever the target.

    Args:
        teacher: only read, and only if it is the target.
        student: changed in place.
        new: the paths of its new operators; all else is inherited.
        dataset: what z_t is made from.
        scheduler: how.
        config: how long, how fast, and on what.
        seed: of the batches.
        checkpoints: where to continue from and to write to; None writes none.
        progress: shows how far the training has come.

    Returns:
        the losses of each step.

    Raises:
        TrainingError: all that there is to train is frozen; else see `surgery.training.loop.train`.
        ArtifactError: see there.
    """
    parameters, frozen = _parted(student, new, config)
    batches = Batches(dataset, scheduler, student, stage=STAGE, batch_size=config.batch_size, seed=seed)
    ema = Ema(parameters, config.ema_decay)
    taught_by = teacher if config.target == "teacher" else None
    others = {
        "new": sorted(new),
        "buffers": digest(dict(student.named_buffers())),
        "frozen": digest(frozen) if frozen else None,
        "teacher": None if taught_by is None else digest(taught_by.state_dict()),
    }
    blocks = () if taught_by is None else blocks_to_imitate(teacher, student, batches.training(0).inputs)
    task = Task(
        stage=STAGE,
        config=config,
        model=student,
        parameters=parameters,
        learning_rate=partial(warmup_cosine, lr=config.lr, warmup=config.warmup, steps=config.steps),
        backward=partial(_backward, taught_by, student, batches, blocks),
        validate=partial(_validate, student, batches, ema),
        identity=identity_of(config, dataset, scheduler, parameters, seed=seed, **others),
        ema=ema,
        scales={name: config.inherited_lr for name in parameters if _is_inherited(name, new)},
    )
    with frozen_behaviour(teacher, student), requiring_grad(frozen.values(), False):
        records = train(task, checkpoints, progress or SilentProgress())
    ema.write_to_parameters()
    return records


def _backward(
    teacher: nn.Module | None, student: nn.Module, batches: Batches, blocks: Collection[str], step: int
) -> dict[str, Tensor]:
    """Add the gradients of a step, against the teacher if there is one, else against the data; the loss."""
    batch = batches.training(step)
    loss = _loss(student, batch) if teacher is None else imitation_loss(teacher, student, batch.inputs, blocks)
    loss.backward()  # type: ignore[no-untyped-call]
    return {"": loss.detach()}


def _parted(
    student: nn.Module, new: Collection[str], config: Finetune
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The parameters that are trained, and those that are frozen, by name."""
    parameters = {name: p for name, p in student.named_parameters() if p.is_floating_point()}
    frozen = {name: p for name, p in parameters.items() if not config.inherited_lr and _is_inherited(name, new)}
    if len(frozen) == len(parameters):
        raise TrainingError(f"{STAGE}: {NOTHING_TO_TRAIN}")
    return {name: p for name, p in parameters.items() if name not in frozen}, frozen


def _is_inherited(name: str, new: Collection[str]) -> bool:
    return not any(name.startswith(f"{path}.") for path in new)


def _loss(student: nn.Module, batch: NoisedBatch) -> Tensor:
    return denoising_loss(predict(student, batch.inputs).to(batch.target.dtype), batch)


def _validate(student: nn.Module, batches: Batches, ema: Ema) -> float | None:
    batch = batches.held_out()
    if batch is None:
        return None
    with torch.no_grad(), ema.applied():
        return _loss(student, batch).item()
