"""What of a student learns in finetuning, and how fast."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from surgery.errors import RecipeError
from surgery.recording.paths import is_inside
from surgery.training.lora import ADAPTER

BASE = ".base_layer"
"""What peft adds to the name of a layer that has an adapter."""


def rates(
    student: nn.Module, new: Collection[str], given: Mapping[str, float], inherited: float, has_adapters: bool
) -> dict[str, float]:
    """As `factors_of`, of a student that is to be trained.

    Raises:
        RecipeError: a pattern fits no parameter, or nothing is left to train.
    """
    found = factors_of(student, new, given, inherited, has_adapters)
    if not any(found.values()):
        raise RecipeError("finetune: all weights are frozen, so nothing is left to train; raise inherited_lr or rates")
    return found


def factors_of(
    student: nn.Module, new: Collection[str], given: Mapping[str, float], inherited: float, has_adapters: bool = False
) -> dict[str, float]:
    """The factor on the learning rate of each parameter by name, 0 for those that are frozen.

    Args:
        student: with its adapters.
        new: paths of its new operators.
        given: factors by patterns of names; the first that fits counts.
        inherited: that of all other inherited weights, unless the student has adapters: these are new too, and what is
            inherited is frozen.
        has_adapters: whether it has.

    Raises:
        RecipeError: a pattern fits no parameter.
    """
    names = [name for name, parameter in student.named_parameters() if parameter.is_floating_point()]
    for pattern in given:
        if not any(fnmatchcase(name.replace(BASE, ""), pattern) for name in names):
            raise RecipeError(f"finetune.rates: {pattern!r} fits no parameter; they are called such as {names[0]!r}")

    def rate(name: str) -> float:
        for pattern, factor in given.items():
            if fnmatchcase(name.replace(BASE, ""), pattern):
                return factor
        if ADAPTER in name or any(is_inside(name, path) for path in new):
            return 1.0
        return 0.0 if has_adapters else inherited

    return {name: rate(name) for name in names}


@contextmanager
def recomputing(student: nn.Module, wanted: bool) -> Iterator[None]:
    """Let the student's blocks be recomputed in the backward pass inside the block, if `wanted`, by diffusers' own means.

    Raises:
        RecipeError: its class cannot do that.
    """
    if not wanted:
        yield
        return
    try:
        student.enable_gradient_checkpointing()  # type: ignore[operator]
    except (AttributeError, ValueError) as error:
        raise RecipeError(f"finetune.checkpointing: {type(student).__name__} cannot do it; leave it out") from error
    try:
        yield
    finally:
        student.disable_gradient_checkpointing()  # type: ignore[operator]
