"""Fields for the operators of rules: which are refused when the rule is written, as they stand for something else."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from surgery.operators import AnyOperator, Dims, JoinerDims, MixerDims, MLPDims, OperatorConfig
from surgery.wording import UNFIT

STANDS_FOR = {MixerDims: "attention", MLPDims: "an MLP", JoinerDims: "the join of two blocks"}
"""By the sizes that it is built at."""
RULES = {MixerDims: "replace_attention", MLPDims: "replace_mlp", JoinerDims: "parallel_pairs"}


def _built_at(wanted: type[Dims]) -> AfterValidator:
    """Refuses operators that say to be built at other sizes; those that say nothing are tried while planning."""

    def checked(operator: OperatorConfig) -> OperatorConfig:
        takes = operator.built_at()
        if takes and not any(issubclass(wanted, each) for each in takes):
            raise PydanticCustomError(UNFIT, "{text}", {"text": _other(operator, takes[0], wanted)})
        return operator

    return AfterValidator(checked)


def _other(operator: OperatorConfig, takes: type[Dims], wanted: type[Dims]) -> str:
    """What it stands for, and where it goes."""
    stands = f"stands for {STANDS_FOR[takes]}" if takes in STANDS_FOR else f"is built at {takes.__name__}"
    advice = f"use {RULES[takes]}" if takes in RULES else "choose another operator"
    return f"{type(operator).__name__} {stands}, not for {STANDS_FOR[wanted]}; {advice}"


Mixer = Annotated[AnyOperator, _built_at(MixerDims)]
"""Stands for attention."""
ChannelOperator = Annotated[AnyOperator, _built_at(MLPDims)]
"""Stands for an MLP."""
AnyJoiner = Annotated[AnyOperator, _built_at(JoinerDims)]
"""Joins two blocks."""
