"""What a run measures at each stage: the content of `metrics.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_serializer

from surgery.config import Config

StageName = Literal["teacher", "rewritten", "distilled", "finetuned"]
Better = Literal["lower", "higher"]

OWN = ("stage", "seconds")
"""What a stage has besides its metrics."""


class Column(Config):
    """How a metric is shown, so that a report needs no code of the metric's author.

    Attributes:
        title: its name for people, as within a sentence.
        unit: see `surgery.evaluate.metrics.Metric`.
        better: which way is better.
        note: what it means and how far it can be trusted.
    """

    title: str
    unit: str = ""
    better: Better = "lower"
    note: str = ""


class StageMetrics(Config):
    """One model of the run, judged by the same protocol and the same noise as the others.

    Every further key is a metric's name; its value is None where the metric was not finite.

    Attributes:
        stage: which model.
        seconds: the time that the stage took, in seconds; 0 for the teacher and for a stage of no steps.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float | None] = Field(init=False)

    stage: StageName
    seconds: float

    @property
    def values(self) -> dict[str, int | float | None]:
        """The metrics by name, in the order in which they were measured."""
        return dict(self.__pydantic_extra__)

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        """The stage first and the time last, as one reads it."""
        return {"stage": self.stage, **self.values, "seconds": self.seconds}


class Metrics(Config):
    """The figures of a run.

    Attributes:
        stages: the models judged, in the order of the stages; a run may have judged only some.
        seed: the seed of the recipe.
        recipe: the name of the recipe.
        columns: how each metric is shown, by name; what judges quality stands before what it costs.
    """

    stages: tuple[StageMetrics, ...]
    seed: int
    recipe: str
    columns: dict[str, Column] = Field(default={})

    @property
    def teacher(self) -> StageMetrics | None:
        """What was measured of the teacher."""
        return self.at("teacher")

    @property
    def students(self) -> list[StageMetrics]:
        """What was measured of the student, stage after stage."""
        return [stage for stage in self.stages if stage.stage != "teacher"]

    def at(self, stage: str | None) -> StageMetrics | None:
        """What was measured at a stage; None if nothing was."""
        return next((each for each in self.stages if each.stage == stage), None)
