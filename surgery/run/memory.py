"""How much memory the stages of a run take, and what to switch on where it is not enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from surgery.errors import first_line
from surgery.rewriting.commit import commit
from surgery.run.prepare import Prepared
from surgery.training.config import StageConfig
from surgery.training.distil import Distil
from surgery.training.finetune import Finetune
from surgery.training.imitate import imitable
from surgery.training.lora import LoRA
from surgery.training.objective import NAMED
from surgery.training.rehearse import Rehearsal, StageMemory


@dataclass(frozen=True)
class Need:
    """What one stage needs.

    Attributes:
        memory: of the stage as the recipe has it.
        advice: options that let it fit the device, one after the other, each with the bytes that are needed with those up
            to it; empty where it fits already.
    """

    memory: StageMemory
    advice: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Memory:
    """What all stages need.

    Attributes:
        device: where they run.
        available: bytes of the device.
        needs: by stage.
        unknown: why it could not be found out; None if it was.
    """

    device: str
    available: int
    needs: tuple[Need, ...]
    unknown: str | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        stages = [
            {**vars(n.memory), "total": n.memory.total, "advice": [list(step) for step in n.advice]} for n in self.needs
        ]
        return {"device": self.device, "available": self.available, "stages": stages, "unknown": self.unknown}


def memory_of(prepared: Prepared, device: str) -> Memory:
    """The memory of each training stage of a run, from a rehearsal of one step; nothing of the model's size is made."""
    available, configs = _available(device), (prepared.recipe.distil, prepared.recipe.finetune)
    try:
        found = [_need(prepared, stage, available, device) for stage in configs if stage.steps]
    except Exception as error:  # whatever a forward does with values that are not there
        return Memory(device, available, (), f"{type(error).__name__}: {first_line(error)[:120]}")
    return Memory(device, available, tuple(need for need in found if need is not None))


def _need(prepared: Prepared, config: StageConfig, available: int, device: str) -> Need | None:
    memory = _rehearsed(prepared, config, device)
    if memory is None:
        return None
    advice: dict[str, tuple[str, int]] = {}
    total = memory.total
    for option in _options(config, device):
        if total <= available:
            break
        tried = config.model_copy(update=option)
        with_it = _rehearsed(prepared, tried, device)
        if with_it is not None and with_it.total < total:
            config, total = tried, with_it.total
            for name, value in option.items():  # it may take the place of another value
                advice.pop(name, None)
                advice[name] = f"{name}={value!r}", total
    return Need(memory, tuple(advice.values()))


def _rehearsed(prepared: Prepared, config: StageConfig, device: str) -> StageMemory | None:
    samples = min(config.batch_size, config.micro_batch or config.batch_size)
    inputs = prepared.data.example(prepared.recipe.seed, device, samples)
    edits, teacher = prepared.plan.edits, prepared.teacher.model
    student = commit(prepared.graph, edits, prepared.recipe.seed, prepared.recordings, shared=True)
    rehearsal = Rehearsal(teacher, student, edits, inputs)
    if isinstance(config, Finetune):
        return rehearsal.finetune(config, imitable(prepared.graph, student))
    return rehearsal.distil(config) if isinstance(config, Distil) else None


def _options(config: StageConfig, device: str) -> Iterator[dict[str, Any]]:
    """What takes less memory; at first what changes nothing that is learnt, and takes little time."""
    if config.micro_batch != 1:
        yield {"micro_batch": 1}
    if isinstance(config, Finetune):
        if not config.checkpointing:
            yield {"checkpointing": True}
        if config.ema_device is None and torch.device(device).type != "cpu":
            yield {"ema_device": "cpu"}
    if torch.device(device).type != "cpu":
        yield from ways_to_hold(config)
    if isinstance(config, Finetune) and config.lora is None and config.inherited_lr:
        yield {"lora": LoRA()}


def ways_to_hold(config: StageConfig) -> Iterator[dict[str, Any]]:
    """How the teacher can take less memory than the recipe has it, if there is one to learn from; the fastest first."""
    if config.teacher_weights is None and not (isinstance(config, Finetune) and config.parts == NAMED["data"]):
        yield from ({"teacher_weights": how} for how in ("int8", "nf4", "offload"))


def _available(device: str) -> int:
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
