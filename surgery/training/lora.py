"""Low-rank adapters on inherited linear layers, while a student is finetuned: Hu et al., arXiv 2106.09685.

At the end they are added to the weights that they adapt: the student is what its edits make of its teacher's class, so it
can be saved and loaded as any other, and runs as fast. Where layers are divided among processes, each has all adapters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn

from surgery.config import Config
from surgery.errors import RecipeError
from surgery.parallel.whole import divided_like, is_divided
from surgery.recording.paths import is_inside, put
from surgery.store.order import seeded

ADAPTER = ".lora_"
"""What names of an adapter's weights hold."""


class LoRA(Config):
    """How inherited linear layers are adapted; new operators are trained in full beside them.

    Attributes:
        rank: of each adapter.
        alpha: its product counts alpha / rank; None takes the rank.
        targets: patterns of the paths of the layers, such as "*.attn1.*"; each must fit one.
    """

    rank: PositiveInt = 16
    alpha: PositiveFloat | None = None
    targets: tuple[str, ...] = ("*",)

    @field_validator("targets")
    @classmethod
    def _names_some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("must name layers, e.g. '*.attn1.*'; leave it out for all")
        return value


@contextmanager
def adapted(
    student: nn.Module, lora: LoRA | None, new: Collection[str], seed: int, *, merge: bool = True
) -> Iterator[None]:
    """Adapt the inherited linear layers of `student` inside the block.

    Args:
        student: changed in place.
        lora: how; None adapts nothing.
        new: paths of its new operators.
        seed: of the adapters' random weights.
        merge: adds what the adapters have learnt to the layers if the block ends well; else they are dropped.

    Raises:
        RecipeError: peft is not installed, or a pattern fits no layer.
    """
    if lora is None:
        yield
        return
    flags = [(parameter, parameter.requires_grad) for parameter in student.parameters()]
    _put_on(student, lora, layers_of(student, lora, new), seed)
    ended = False
    try:
        yield
        ended = True
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        _take_off(student, merged=ended and merge)


def layers_of(student: nn.Module, lora: LoRA, new: Collection[str]) -> list[str]:
    """Paths of the layers that are adapted.

    Raises:
        RecipeError: a pattern fits none, or peft is not installed.
    """
    _peft()
    inherited = [
        path
        for path, module in student.named_modules()
        if type(module) is nn.Linear and not any(is_inside(path, at) for at in new)
    ]
    for pattern in lora.targets:
        if not any(fnmatchcase(path, pattern) for path in inherited):
            raise RecipeError(f"lora.targets: {pattern!r} fits no inherited linear layer; such are {inherited[:3]}")
    return [path for path in inherited if any(fnmatchcase(path, pattern) for pattern in lora.targets)]


def _put_on(student: nn.Module, lora: LoRA, layers: list[str], seed: int) -> None:
    peft = _peft()
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or lora.rank,
        target_modules="|".join(map(re.escape, layers)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded(seed, "lora").initial_seed())
        peft.inject_adapter_in_model(config, student)


@torch.no_grad()
def _take_off(student: nn.Module, merged: bool) -> None:
    """Put the adapted layers back, with what the adapters have learnt if `merged`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(student.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            if merged:
                _add(layer, module.get_delta_weight(module.active_adapters[0]))
            put(student, path, layer)
    del student.peft_config


def _add(layer: nn.Module, change: Tensor) -> None:
    """Add `change`, which all processes hold, to a layer's weight, in memory of its own: it may be its teacher's."""
    old = layer.weight
    assert isinstance(old, nn.Parameter)
    weight = old + divided_like(change.to(old.dtype), old)
    if is_divided(old):
        layer.load_state_dict({"weight": weight}, strict=False, assign=True)  # FSDP looks for new memory after this
    else:
        old.data = weight


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise RecipeError("finetune.lora needs peft: pip install 'surgery[lora]'") from error
    return peft
