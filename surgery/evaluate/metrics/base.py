"""What a metric is. One is added by one class, in the package or in a recipe; nothing else has to know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, SerializeAsAny

from surgery.evaluate.context import Context
from surgery.evaluate.results import Better, Column
from surgery.kinds import Kinded
from surgery.training.source import TrainingData


class Metric(Kinded, ABC):
    """A figure by which each model of a run is judged.

    A subclass with a `kind` of its own, as in `kind: Literal["contrast"] = "contrast"`, is known once it is defined, and
    is read back from JSON by it. Its fields are what a user may set.

    Attributes:
        title: its name for people, as within a sentence.
        unit: "" of a plain number; "share" of a number from 0 to 1, shown in percent; "count" of a number shown with k,
            M or G; else what is written behind the number, such as "ms".
        better: which way is better, "lower" or "higher".
        note: a sentence or two for people: what it means, and below which difference it means nothing.
        usual_samples: so many are drawn for it if the recipe does not say.
    """

    title: ClassVar[str]
    unit: ClassVar[str] = ""
    better: ClassVar[Better]
    note: ClassVar[str] = ""
    usual_samples: ClassVar[int] = 16

    @property
    def name(self) -> str:
        """Its key in `metrics.json`: the kind, unless a subclass that has options says more."""
        return self.kind

    @property
    def column(self) -> Column:
        """How it is shown."""
        return Column(title=self.title, unit=self.unit, better=self.better, note=self.note)

    def check(self, data: TrainingData, samples: int) -> str | None:  # noqa: ARG002
        """A reason why models of `data` cannot be judged by so many samples, or None; asked before a run starts."""
        return None

    @abstractmethod
    def compute(self, context: Context) -> float:
        """The figure of `context.model`."""


AnyMetric = Annotated[SerializeAsAny[Metric], BeforeValidator(Metric.from_data)]
"""A pydantic field for any metric; read back from JSON as the class of its kind."""
