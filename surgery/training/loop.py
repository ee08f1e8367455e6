"""The loop that both stages share: update, check that all is finite, checkpoint, resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from surgery.errors import TrainingError
from surgery.parallel.division import add_up_gradients
from surgery.parallel.group import add_up
from surgery.parallel.whole import alike, total_norm, whole
from surgery.pipelines.tree import tensors_in
from surgery.progress import Progress
from surgery.training.checkpoint import CheckpointStore, Identity, TrainState
from surgery.training.config import StageConfig
from surgery.training.ema import Ema
from surgery.training.optim import Optimizer, linear_weights, requiring_grad
from surgery.training.record import LossRecord
from surgery.training.source import Forward, TrainingData


def together(name: str) -> str:  # noqa: ARG001
    """All parameters in one group."""
    return ""


@dataclass(frozen=True)
class Task:
    """What one stage brings to the loop. Steps count from 0.

    Attributes:
        stage: its name.
        config: how long and how fast.
        model: whose linear layers have the weights that Muon takes.
        parameters: what is trained, by name.
        batch: gives the forwards of a step.
        backward: adds the gradients of this process's part of a step and gives its loss terms by site, detached scalars;
            a single term has the key "".
        validate: gives the loss on the held-out batch, None if there is none; the parameters are their average then.
        identity: all that the outcome depends on and a checkpoint does not hold.
        ema: the moving average of the parameters, if the stage keeps one.
        scales: factors on the learning rate by name of the parameter; 1 where none is given.
        weight_decay: see `Optimizer`.
        show: is called with the number of steps done when samples are to be drawn.
        clip_by: the group of a parameter, by its name; the gradient of each group is clipped by itself.
        log: is called with the record of each step.
    """

    stage: str
    config: StageConfig
    model: nn.Module
    parameters: dict[str, nn.Parameter]
    batch: Callable[[int], Sequence[Forward]]
    backward: Callable[[int], dict[str, Tensor]]
    validate: Callable[[], float | None]
    identity: Identity
    ema: Ema | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    show: Callable[[int], None] | None = None
    clip_by: Callable[[str], str] = together
    log: Callable[[LossRecord], None] | None = None


def train(task: Task, checkpoints: CheckpointStore | None, progress: Progress) -> list[LossRecord]:
    """Train from the last checkpoint, or from the start, to the end.

    The outcome is the same to the bit however often the training was interrupted.

    Returns:
        the records of all steps, those before an interruption included.

    Raises:
        TrainingError: a loss, gradient or parameter is not finite, or a checkpoint cannot be written.
        ArtifactError: a checkpoint is damaged or of another training.
    """
    return _Loop(task, checkpoints).run(progress)


class _Loop:
    def __init__(self, task: Task, checkpoints: CheckpointStore | None) -> None:
        self._task = task
        self._checkpoints = checkpoints
        matrices = linear_weights(task.model) if task.config.optimizer == "muon" else ()
        self._optimizer = Optimizer(task.parameters, matrices, task.scales, task.weight_decay)
        self._records: list[LossRecord] = []
        self._saved_step = 0

    def run(self, progress: Progress) -> list[LossRecord]:
        task, steps = self._task, self._task.config.steps
        self._restore(progress)
        with (
            requiring_grad(task.parameters.values()),
            progress.stage(task.stage, total=steps, done=self._saved_step) as bar,
        ):
            self._show(self._saved_step)
            for step in range(self._saved_step, steps):
                record = self._update(step)
                done = step + 1
                if done % task.config.checkpoint_every == 0 or done == steps:
                    with self._averaged():
                        record = replace(record, validation=task.validate())
                    self._checkpoint(record)
                else:
                    self._records.append(record)
                if task.log is not None:
                    task.log(record)
                self._show(done)
                bar.advance(loss=record.loss)
            if self._checkpoints is not None:
                self._checkpoints.finish()
        return self._records

    def _show(self, done: int) -> None:
        """Have samples drawn after so many steps, if it is time."""
        every = self._task.config.sample_every
        if self._task.show is not None and every is not None and done % every == 0:
            with self._averaged(), torch.no_grad():
                self._task.show(done)

    def _averaged(self) -> AbstractContextManager[None]:
        """Lets the parameters be their average, if there is one; gradients are dropped first, to make room."""
        self._optimizer.zero_grad()
        return nullcontext() if self._task.ema is None else self._task.ema.applied()

    def _update(self, step: int) -> LossRecord:
        task = self._task
        self._optimizer.zero_grad()
        terms = task.backward(step)
        add_up([*terms.values()])
        add_up_gradients(task.parameters.values())
        norms = self._norms()
        losses = {site: term.item() for site, term in terms.items()}
        self._require_finite(losses, sum(norm.item() for _, norm in norms), step)
        for parameters, norm in norms:
            for part in alike(parameters):
                nn.utils.clip_grads_with_norm_(part, task.config.clip, norm)
        self._optimizer.step(task.config.rate_at(step))
        if task.ema is not None:
            task.ema.update(step, self._optimizer.masters)
        sites = {site: loss for site, loss in losses.items() if site}
        return LossRecord(task.stage, step + 1, sum(losses.values()), sites)

    def _norms(self) -> list[tuple[list[nn.Parameter], Tensor]]:
        """The parameters of each group, and the norm of their gradient."""
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self._task.parameters.items():
            groups.setdefault(self._task.clip_by(name), []).append(parameter)
        grads = [[p.grad for p in group if p.grad is not None] for group in groups.values()]
        return list(zip(groups.values(), map(total_norm, grads), strict=True))

    def _require_finite(self, losses: dict[str, float], norm: float, step: int) -> None:
        for site, loss in losses.items():
            if not math.isfinite(loss):
                raise self._stopped(f"loss{' of ' + site if site else ''} is {loss}", step)
        if not math.isfinite(norm):
            bad = _non_finite({n: p.grad for n, p in self._task.parameters.items() if p.grad is not None})
            raise self._stopped(f"gradient of {bad or 'the parameters'} is not finite", step)

    def _stopped(self, what: str, step: int) -> TrainingError:
        lr = self._task.config.lr
        kept = ""
        if self._checkpoints is not None and self._saved_step:
            kept = f"; the checkpoint of step {self._saved_step} is kept in {self._checkpoints.folder}"
        taken = [tensor for forward in self._task.batch(step) for tensor in tensors_in(forward.inputs)]
        if any(bool((tensor.isnan() | tensor.isposinf()).any()) for tensor in taken):  # masks hold -inf
            return TrainingError(f"{self._task.stage}: {what} at step {step + 1}; so are its data: repair them{kept}")
        return TrainingError(f"{self._task.stage}: {what} at step {step + 1}; lower its lr (now {lr:g}){kept}")

    def _checkpoint(self, record: LossRecord) -> None:
        task = self._task
        bad = _non_finite(dict(task.parameters))
        if bad is not None or not math.isfinite(record.validation or 0.0):
            what = f"parameter {bad}" if bad else "held-out loss"
            raise self._stopped(f"{what} is not finite", record.step - 1)
        self._records.append(record)
        if self._checkpoints is None:
            return
        parameters = {name: p.detach() for name, p in task.parameters.items()}
        moments = self._optimizer.state()
        shadow = task.ema.shadow if task.ema is not None else {}
        state = TrainState(record.step, parameters, moments, shadow, self._records)
        self._checkpoints.save(task.stage, state, task.identity)
        self._saved_step = record.step

    @torch.no_grad()
    def _restore(self, progress: Progress) -> None:
        task = self._task
        if self._checkpoints is None:
            return
        parameters = {name: parameter.detach() for name, parameter in task.parameters.items()}
        into = TrainState(0, parameters, ema=task.ema.shadow if task.ema is not None else {})
        state = self._checkpoints.load(task.stage, task.identity, into)
        if state is None:
            return
        for line in self._checkpoints.damaged:
            progress.say(line)
        self._optimizer.load(state.optimizer)
        self._records, self._saved_step = state.records, state.step


def _non_finite(tensors: dict[str, Tensor]) -> str | None:
    return next((name for name, tensor in tensors.items() if not bool(whole(torch.isfinite(tensor).all()))), None)


def identity_of(
    config: StageConfig, data: TrainingData, parameters: dict[str, nn.Parameter], **others: object
) -> dict[str, object]:
    """The identity of a training on these data; `others` are plain values, such as the seed."""
    return {
        **config.model_dump(mode="json"),
        "parameters": {name: [str(p.dtype), *p.shape] for name, p in parameters.items()},
        **data.identity,
        **others,
    }
