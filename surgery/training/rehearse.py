"""How much memory a step of a stage takes: the step is run on tensors without values, and what is alive is counted.

The stage's own code runs: its hooks, its backward pass, its optimizer. Nothing of the size of the model is allocated. Not
counted are PyTorch itself, what its kernels need inside of them, and the fragments of an allocator.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from surgery.pipelines.tree import Arguments, tensors_in
from surgery.recording.copying import copied, place
from surgery.rewriting.commit import replaced_in
from surgery.rewriting.edit import Edit, new_paths
from surgery.training.config import StageConfig
from surgery.training.distil import Distil, Pairs, sites_of, used_by
from surgery.training.finetune import STAGE, Finetune, backward, learning
from surgery.training.held import on_device
from surgery.training.imitate import Blocks
from surgery.training.learning import BASE
from surgery.training.lora import adapted
from surgery.training.objective import Objective
from surgery.training.optim import Optimizer, frozen_behaviour, linear_weights, requiring_grad


@dataclass(frozen=True)
class StageMemory:
    """What is in memory while a stage trains, in bytes.

    Attributes:
        stage: "distil" or "finetune".
        weights: of teacher and student, what they share once, as they are held.
        gradients: of what is trained.
        moments: of the optimizer, with weights that it keeps in float32 beside those in half precision.
        average: of the weights.
        activations: all else at the moment of the forward or backward pass when most is alive.
        update: all else when most is alive after it: as weights are updated, or adapters merged.
    """

    stage: str
    weights: int
    gradients: int
    moments: int
    average: int
    activations: int
    update: int

    @property
    def total(self) -> int:
        """The most that is in memory at once."""
        return self.weights + self.gradients + self.moments + self.average + max(self.activations, self.update)


@dataclass(frozen=True)
class Rehearsed:
    """A forward whose loss has the cost of one, see `surgery.training.source.Forward`."""

    inputs: Arguments
    share: float = 1.0

    def training(self, step: int) -> Sequence[Rehearsed]:  # noqa: ARG002
        """Its own batch, see `surgery.training.source.Source`."""
        return (self,)

    def held_out(self, draw: int = 0) -> Sequence[Rehearsed]:  # noqa: ARG002
        """None."""
        return ()

    def loss(self, output: Tensor) -> Tensor:
        """A scalar."""
        return output.float().square().mean()


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made in the block, while they are alive.

    Attributes:
        now, peak: how many there are, and the most that there were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in((args, kwargs)):
            self._note(tensor, 0)  # it was there before
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in(out):
            self._note(tensor, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _note(self, tensor: Tensor, size: int) -> None:
        """Count a tensor whose memory is not known yet."""
        key = place(tensor)
        if key not in self._known:
            self._known[key] = size
            self.now += size
            weakref.finalize(tensor.untyped_storage(), self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self._known.pop(key)


class Rehearsal:
    """Runs a step of each stage on copies of teacher and student that have no values.

    Args:
        teacher, student: models that share what memory they share before the stage.
        edits: the student's.
        inputs: keywords of the largest forward of a step.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, edits: Sequence[Edit], inputs: Arguments) -> None:
        self._real, self._edits, self._inputs = (teacher, student), edits, inputs

    def distil(self, config: Distil) -> StageMemory | None:
        """The memory of stage 1; None if there is nothing to distil."""
        if not sites_of(self._edits, *self._real):
            return None
        with self._copies() as (teacher, student, forward), frozen_behaviour(teacher, student):
            pairs = Pairs(teacher, student, sites_of(self._edits, teacher, student))
            optimizer = _optimizer(student, pairs.parameters, config)
            counted = _counted(pairs.parameters, optimizer, lambda: pairs.losses([forward], backward=True))
        return StageMemory(stage="distil", weights=self._distilled_weights(config), average=0, **counted)

    def _distilled_weights(self, config: Distil) -> int:
        """Bytes of the weights that are on the device in stage 1."""
        teacher, student = self._real
        kept, more = on_device(teacher, config.teacher_weights)
        is_host = next(student.parameters()).device.type == "cpu"
        used = used_by(sites_of(self._edits, teacher, student))
        models = used if config.sets_aside and not is_host else [student]
        return _bytes([*kept, *_weights(*models)]) + more

    def finetune(self, config: Finetune, blocks: Blocks) -> StageMemory:
        """The memory of stage 2, if it imitates these blocks wherever it imitates blocks."""
        new, imitated = new_paths(self._edits), blocks if config.parts.blocks else {}
        with (
            adapted(self._real[1], config.lora, new, seed=0, merge=False),
            self._copies() as (teacher, student, forward),
            learning(teacher, student, new, config) as learns,
        ):
            objective = Objective(config.parts, teacher, student, student, imitated, None)
            optimizer = _optimizer(student, learns.parameters, config, learns.scales, config.weight_decay)
            counted = _counted(learns.parameters, optimizer, lambda: backward(objective, forward, 0))
            merged = sum(p.nbytes for name, p in student.named_parameters() if name.endswith(f"{BASE}.weight"))
            kept, more = on_device(self._real[0], config.teacher_weights)
            weights = _bytes([*kept, *_weights(self._real[1])]) + more + self._apart(learns.parameters, kept)
        counted["update"] = max(counted["update"], merged - counted["gradients"] - counted["moments"])
        average = sum(p.numel() * max(p.element_size(), 4) for p in learns.parameters.values())
        here = next(self._real[1].parameters()).device.type
        is_here = torch.device(config.ema_device or here).type == here
        return StageMemory(stage=STAGE, weights=weights, average=average if is_here else 0, **counted)

    @contextmanager
    def _copies(self) -> Iterator[tuple[nn.Module, nn.Module, Rehearsed]]:
        """Teacher, student and a forward without values, while nothing that is made has any."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        teacher, student = (copied(model, mode.from_tensor, replaced_in(model)) for model in self._real)
        inputs = pytree.tree_map(
            lambda leaf: mode.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf, self._inputs
        )
        with mode:
            yield teacher, student, Rehearsed(inputs)

    def _apart(self, parameters: Mapping[str, nn.Parameter], kept: Iterable[Tensor]) -> int:
        """Bytes of what is trained and shares the memory of what is `kept` of the teacher before."""
        taken = {place(tensor) for tensor in kept}
        shared = {name for name, parameter in self._real[1].named_parameters() if place(parameter) in taken}
        return sum(parameter.nbytes for name, parameter in parameters.items() if name in shared)


def _optimizer(
    student: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    config: StageConfig,
    scales: Mapping[str, float] = {},
    weight_decay: float = 0.0,
) -> Optimizer:
    matrices = linear_weights(student) if config.optimizer == "muon" else ()
    return Optimizer(parameters, matrices, scales, weight_decay)


def _counted(
    parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, step: Callable[[], object]
) -> dict[str, int]:
    """Bytes of gradients, moments and activations in a step after the first."""
    with requiring_grad(parameters.values()), torch.autograd.set_multithreading_enabled(False):
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(0.0)
        step()  # where adapters have come in, the first one makes recordings, on tensors that take no memory later
        optimizer.zero_grad()
        with Alive() as alive:
            step()
            activations, alive.peak = alive.peak, alive.now
            nn.utils.get_total_norm([p.grad for p in parameters.values() if p.grad is not None])
            optimizer.step(0.0)
    gradients = sum(parameter.nbytes for parameter in parameters.values())
    moments = _bytes(optimizer.state().values())
    others = {"activations": max(activations - gradients, 0), "update": max(alive.peak - gradients, 0)}
    return {"gradients": gradients, "moments": moments, **others}


def _weights(*models: nn.Module) -> Iterator[Tensor]:
    for model in models:
        yield from model.parameters()
        yield from model.buffers()


def _bytes(tensors: Iterable[Tensor]) -> int:
    """What tensors take, each piece of memory once."""
    return sum({place(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
