"""What all operators have in common: a config, which is plain data, and a module that it builds.

Shape legend: D features of the stream.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, get_args

from torch import nn

from surgery.kinds import Kinded
from surgery.operators.dims import Dims


class OperatorConfig(Kinded, ABC):
    """Base of operator configs: plain data that builds an operator and counts its cost without building it.

    A concrete config adds `kind: Literal["its_name"] = "its_name"`, by which JSON names it, and its own fields. One
    multiplication or one addition is one FLOP; biases are not counted and boundary tokens cost as much as inner ones,
    as in the published tables.
    """

    @abstractmethod
    def build(self, dims: Any) -> nn.Module:
        """Return a new operator with random weights, on the default device and in the default dtype."""

    @abstractmethod
    def flops(self, dims: Any, batch: int, tokens: int) -> int:
        """FLOPs of one forward pass over (batch, tokens, dim)."""

    def flops_mixing(self, dims: Any, batch: int, tokens: int) -> int:
        """FLOPs of mixing tokens or features alone, see the subclasses; none by default."""
        del dims, batch, tokens
        return 0

    @classmethod
    def built_at(cls) -> tuple[type[Dims], ...]:
        """The sizes that `build` is annotated to take; none, if it does not say so."""
        said = next(filter(None, (_annotation(vars(each).get("build")) for each in cls.__mro__)), None)
        return tuple(each for each in (get_args(said) or (said,)) if isinstance(each, type) and issubclass(each, Dims))

    @property
    def takes_any_length(self) -> bool:
        """Whether it takes any number of tokens; with a `grid` of its own it takes as many as lie on that."""
        return getattr(self, "grid", None) is None


class CountedByConfig:
    """For modules that operator configs build: they cost what the config says."""

    config: OperatorConfig
    dims: Dims
    takes_heads: ClassVar[bool] = False

    def flops(self, batch: int, tokens: int) -> int:
        """FLOPs of one forward pass over (batch, tokens, D)."""
        return self.config.flops(self.dims, batch, tokens)

    def flops_mixing(self, batch: int, tokens: int) -> int:
        """FLOPs of mixing alone, see the config."""
        return self.config.flops_mixing(self.dims, batch, tokens)


class BuiltByConfig(CountedByConfig, nn.Module):
    """A module that is made from a config and the sizes around it."""

    def __init__(self, config: OperatorConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims


def _annotation(build: Callable[..., Any] | None) -> Any:
    """What the argument of a `build` is said to be; None if there is nothing to be read."""
    try:
        _, dims = inspect.signature(build, eval_str=True).parameters.values()  # type: ignore[arg-type]
    except Exception:  # no such method, or an annotation with a name that is known to type checkers only
        return None
    return None if dims.annotation is dims.empty else dims.annotation
