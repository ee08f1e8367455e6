"""What a recipe needs on many GPUs: memory of each, by a rehearsed step, and time, by operations and bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from surgery.graph import ModelGraph
from surgery.models import load_skeleton
from surgery.models.inputs import example_inputs
from surgery.pipelines.tree import Arguments
from surgery.recipe import Recipe
from surgery.recording.paths import is_inside
from surgery.rewriting import Plan
from surgery.rewriting.commit import commit
from surgery.rewriting.planning import Recordings, prove
from surgery.run.memory import ways_to_hold
from surgery.tracing import trace
from surgery.training.config import StageConfig
from surgery.training.distil import Distil
from surgery.training.finetune import Finetune
from surgery.training.imitate import imitable
from surgery.training.lora import LoRA
from surgery.training.rehearse import Rehearsal, StageMemory

FLOPS, USED = 989e12, 0.2
"""Of an H100 (SXM) in bfloat16 without sparsity, by its data sheet; and the share of it that training reached on an H200,
with DiT-XL/2 (docs/gpu.md)."""
IN_NODE, BETWEEN, NODE = 450e9, 50e9, 8
"""Bytes a second that an H100 sends to others in its node of so many (NVLink) and outside of it (400 Gb/s each)."""
FROM_HOST = 64e9
"""Bytes a second that it takes from the memory of its host (PCIe 5.0)."""
AT_ONCE = 2
"""Blocks that are gathered at a time: the one that runs, and the next."""


@dataclass(frozen=True)
class Setting:
    """A stage on so many GPUs.

    Attributes:
        stage: "distil" or "finetune".
        settings: what is changed about the recipe or its command so that it fits, one after the other.
        memory: bytes of each GPU.
        fits: whether they are as many as there are, or fewer.
        seconds: of all steps.
        bound: what these are spent on, "operations" or "bytes" between GPUs or from the host, whichever takes longer;
            both go on at once.
    """

    stage: str
    settings: tuple[str, ...]
    memory: int
    fits: bool
    seconds: float
    bound: str

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class Scale:
    """A recipe whose model is on the meta device; nothing of its size is made."""

    def __init__(self, recipe: Recipe) -> None:
        """Trace the model at its own sizes, for one sample, and plan the rules."""
        self._recipe = recipe
        self._model = load_skeleton(recipe.model).to("meta")
        self._model.to(getattr(torch, recipe.dtype))
        self._inputs: Callable[[int], Arguments] = cache(partial(example_inputs, self._model))
        self._graph: ModelGraph = trace(self._model, self._inputs(1))
        found: tuple[Plan, Recordings] = prove(self._graph, recipe.rules)
        self._plan, self._recordings = found
        self._rehearsed = cache(self._rehearse)

    def stages(self, gpus: int, memory: int) -> list[Setting]:
        """How each stage fits into so many bytes of each GPU, and how long it takes."""
        found = (self._fitted(config, gpus, memory) for config in (self._recipe.distil, self._recipe.finetune))
        return [each for each in found if each is not None]

    def _fitted(self, config: StageConfig, gpus: int, available: int) -> Setting | None:
        """The stage with the first settings that let it fit, or with all."""
        taken: dict[str, str] = {}
        divided = False
        needed = self._needed(config, gpus, divided)
        if needed is None:
            return None
        for words, change in _options(config, gpus):
            if needed <= available:
                break
            tried = config.model_copy(update=change)
            less = self._needed(tried, gpus, divided or not change)
            if less is not None and less < needed:
                config, needed, divided = tried, less, divided or not change
                name = words.partition("=")[0]
                taken.pop(name, None)  # it may take the place of another value
                taken[name] = words
        seconds, bound = self._time(config, gpus, divided)
        return Setting(_stage(config), tuple(taken.values()), needed, needed <= available, seconds, bound)

    def _needed(self, config: StageConfig, gpus: int, divided: bool) -> int | None:
        """Bytes of each GPU."""
        own = math.ceil(config.batch_size / gpus)
        held = self._held(config, min(own, config.micro_batch or own))
        if held is None:
            return None
        learnt = held.gradients + held.moments + held.average
        if not divided:
            return held.weights + learnt + max(held.activations, held.update)
        adapted = isinstance(config, Finetune) and config.lora is not None  # adapters are whole in each process
        kept = held.weights + learnt * (gpus if adapted else 1)
        gathered = AT_ONCE * self._largest_block * (2 if held.gradients else 1)
        return math.ceil(kept / gpus) + max(held.activations + gathered, math.ceil(held.update / gpus))

    def _held(self, config: StageConfig, samples: int = 1) -> StageMemory | None:
        """What a forward of so many samples on one GPU, and its update, take, however long the stage is.

        What many take does not follow from one: its activations are gone before all of its gradients are there.
        """
        alone = config.model_copy(update={"micro_batch": None, "batch_size": samples, "steps": 1})
        return self._rehearsed(alone.model_dump_json(), type(config), samples)

    def _rehearse(self, text: str, kind: type[StageConfig], samples: int) -> StageMemory | None:
        config = kind.model_validate_json(text)
        student = self._student()
        rehearsal = Rehearsal(self._model, student, self._plan.edits, self._inputs(samples))
        if isinstance(config, Finetune):
            return rehearsal.finetune(config, imitable(self._graph, student))
        return rehearsal.distil(config) if isinstance(config, Distil) else None

    def _student(self) -> nn.Module:
        return commit(self._graph, self._plan.edits, self._recipe.seed, self._recordings, shared=True)

    @property
    def _largest_block(self) -> int:
        """Bytes of its weights."""
        named = dict(self._model.named_parameters())
        blocks = (sum(p.nbytes for n, p in named.items() if is_inside(n, block)) for block in self._graph.layers)
        return max(blocks, default=sum(p.nbytes for p in named.values()))

    def _time(self, config: StageConfig, gpus: int, divided: bool) -> tuple[float, str]:
        """Seconds of all steps, and what they are spent on."""
        own = math.ceil(config.batch_size / gpus)
        computed = own * self._flops(config) / (FLOPS * USED)
        rate = IN_NODE if gpus <= NODE else BETWEEN
        moved = self._moved(config, own, divided) * (gpus - 1) / gpus / rate
        if config.teacher_weights == "offload":
            moved += math.ceil(own / (config.micro_batch or own)) * self._teacher_bytes / FROM_HOST
        bound = "operations" if computed >= moved else "bytes"
        return config.steps * max(computed, moved), bound

    @property
    def _teacher_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self._model.parameters())

    def _flops(self, config: StageConfig) -> float:
        """Of a sample in a step; a backward pass takes twice those of its forward pass."""
        teacher = self._plan.total.flops.before
        if not isinstance(config, Finetune):
            return teacher + 3 * sum(edit.flops.after for edit in self._plan.edits if edit.new)
        forwards = 4 if config.checkpointing else 3
        imitates = bool(config.parts.teacher or config.parts.blocks)
        return forwards * self._plan.total.flops.after + imitates * teacher

    def _moved(self, config: StageConfig, own: int, divided: bool) -> float:
        """Bytes that a GPU sends in a step, all but its own part of which it has already.

        Gradients are added up: each is sent once to be summed and once as a sum. Divided weights are gathered for each
        forward and each backward pass, and their gradients are sent once.
        """
        held = self._held(config)
        assert held is not None
        if not divided:
            return 2 * held.gradients
        passes = math.ceil(own / (config.micro_batch or own))
        return passes * (held.weights + 2 * held.gradients)


def _stage(config: StageConfig) -> str:
    return "finetune" if isinstance(config, Finetune) else "distil"


def _options(config: StageConfig, gpus: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What takes less memory, at first what changes nothing that is learnt, and takes little time.

    The one without a change divides weights.
    """
    stage = _stage(config)
    if config.micro_batch != 1:
        yield f"{stage}.micro_batch=1", {"micro_batch": 1}
    if isinstance(config, Finetune) and not config.checkpointing:
        yield "finetune.checkpointing=true", {"checkpointing": True}
    if gpus > 1:
        yield "--shard", {}
    if isinstance(config, Finetune) and config.ema_device is None:
        yield "finetune.ema_device=cpu", {"ema_device": "cpu"}
    if gpus == 1:  # they are not divided
        yield from ((f"{stage}.teacher_weights={how['teacher_weights']}", how) for how in ways_to_hold(config))
    if isinstance(config, Finetune) and config.lora is None and config.inherited_lr:
        yield "finetune.lora", {"lora": LoRA()}
