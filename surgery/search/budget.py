"""What a student may cost."""

from __future__ import annotations

import re
from typing import Literal, Self, cast, get_args

from pydantic import PositiveInt, ValidationInfo, field_validator, model_validator

from surgery.config import Config

CostName = Literal["latency", "flops", "params", "memory"]
COSTS: tuple[CostName, ...] = get_args(CostName)

LARGEST_SHARE = 2
"""A bare number up to this is a share of the teacher's cost; a larger one is the cost itself."""
_PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNITS: dict[CostName, dict[str, float]] = {
    "latency": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "flops": {"flops": 1, "flop": 1, "": 1},
    "params": {"params": 1, "": 1},
    "memory": {"bytes": 1, "b": 1, "": 1},
}
_EXAMPLES: dict[CostName, str] = {"latency": "'12 ms'", "flops": "'40 G'", "params": "'600 M'", "memory": "'1.5 GB'"}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([a-z]*)")


Limit = float | str


class Budget(Config):
    """Limits on one forward of one sample; at least one is given.

    A number up to 2 is a share of what the teacher costs; a larger one, or a text with a unit such as "12 ms", "40 G" or
    "1.5 GB", is absolute.

    Attributes:
        latency: time on this machine, in milliseconds if no unit is given.
        flops: floating point operations; a multiply-add counts as two.
        params: parameters.
        memory: of parameters and buffers, in bytes.
    """

    latency: Limit | None = None
    flops: Limit | None = None
    params: Limit | None = None
    memory: Limit | None = None

    @field_validator(*COSTS)
    @classmethod
    def _is_an_amount(cls, given: Limit | None, field: ValidationInfo) -> Limit | None:
        if isinstance(given, str):
            _absolute(cast(CostName, field.field_name), given)
        elif given is not None and given <= 0:
            raise ValueError("must be positive: 0.8 is four fifths of the teacher's")
        return given

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.names:
            raise ValueError(f"limits nothing; name one of {', '.join(COSTS)}, as in flops=0.8")
        return self

    @property
    def names(self) -> tuple[CostName, ...]:
        """The costs that are limited."""
        return tuple(name for name in COSTS if getattr(self, name) is not None)

    def limit(self, name: CostName, teachers: float) -> float:
        """The most that a student may cost; the teacher costs `teachers`, in milliseconds or as a count."""
        given: Limit = getattr(self, name)
        if isinstance(given, str):
            return _absolute(name, given)
        return given * teachers if given <= LARGEST_SHARE else given


def _absolute(name: CostName, text: str) -> float:
    """What a text with a unit says, in milliseconds or as a count."""
    found = _NUMBER.fullmatch(text.strip().lower())
    number, words = found.groups() if found else ("", "?")
    prefixes = {"": 1.0} if name == "latency" else _PREFIXES
    known = {prefix + unit: size * factor for unit, factor in _UNITS[name].items() for prefix, size in prefixes.items()}
    if words in known:
        return float(number) * known[words]
    raise ValueError(f"is no amount; write a share such as 0.8, or {_EXAMPLES[name]}")


class Search(Config):
    """How edits are chosen among the rules of a recipe, which are candidates then.

    Attributes:
        budget: what the student may cost.
        shortlist: how many sets of edits are finetuned and judged.
        steps: of distilling each candidate, and of finetuning each set of the shortlist.
        compiled: whether latency is that of models run by `torch.compile`.
    """

    budget: Budget
    shortlist: PositiveInt = 4
    steps: PositiveInt = 100
    compiled: bool = False
