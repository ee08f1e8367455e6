"""What a metric is. One is added by one class, in the package or in a recipe; nothing else has to know of it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, SerializeAsAny

from surgery.config import Config
from surgery.errors import ConfigError
from surgery.evaluate.context import Context
from surgery.evaluate.results import Better, Column
from surgery.training.data import LatentDataset
from surgery.wording import did_you_mean

_KNOWN: dict[str, type[Metric]] = {}


class Metric(Config, ABC):
    """A figure by which each model of a run is judged.

    A subclass with a `kind` of its own, as in `kind: Literal["contrast"] = "contrast"`, is known once it is defined, and
    is read back from JSON by it. Its fields are what a user may set.

    Attributes:
        kind: what JSON knows it by.
        title: its name for people, as within a sentence.
        unit: "" of a plain number; "share" of a number from 0 to 1, shown in percent; "count" of a number shown with k,
            M or G; else what is written behind the number, such as "ms".
        better: which way is better, "lower" or "higher".
    """

    title: ClassVar[str]
    unit: ClassVar[str] = ""
    better: ClassVar[Better]

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Make a metric known by its kind.

        Raises:
            ConfigError: another metric has this kind.
        """
        kind = cls.model_fields["kind"].default
        if not isinstance(kind, str):
            return
        other = _KNOWN.get(kind, cls)
        # The same class again is a module that was reloaded, or a notebook's cell that ran again.
        if _is_alive(other) and _origin(other) != _origin(cls):
            raise ConfigError([f"{_origin(cls)}: {_origin(other)} has the kind {kind!r} too; choose another"])
        _KNOWN[kind] = cls

    @property
    def name(self) -> str:
        """Its key in `metrics.json`: the kind, unless a subclass that has options says more."""
        return self.kind

    @property
    def column(self) -> Column:
        """How it is shown."""
        return Column(title=self.title, unit=self.unit, better=self.better)

    def check(self, data: LatentDataset, samples: int) -> str | None:  # noqa: ARG002
        """A reason why models of `data` cannot be judged by so many samples, or None; asked before a run starts."""
        return None

    @abstractmethod
    def compute(self, context: Context) -> float:
        """The figure of `context.model`."""


def _is_alive(metric: type[Metric]) -> bool:
    """Whether it can still be imported; one of a recipe cannot once that is loaded."""
    return getattr(sys.modules.get(metric.__module__), metric.__name__, None) is metric


def _origin(metric: type[Metric]) -> str:
    return f"{metric.__module__}.{metric.__qualname__}"


def _from_json(value: Any) -> Any:
    """The metric that a mapping with its kind and fields describes; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    if kind not in _KNOWN:
        raise ValueError(f"unknown kind {kind!r}{did_you_mean(str(kind), _KNOWN)}: import the module that defines it")
    return _KNOWN[kind](**value)


AnyMetric = Annotated[SerializeAsAny[Metric], BeforeValidator(_from_json)]
"""A pydantic field for any metric; read back from JSON as the class of its kind."""
