"""What a logger is: where the figures of a run go while it runs, besides its folder."""

from __future__ import annotations

from typing import Protocol

from surgery.evaluate.results import StageMetrics
from surgery.training.record import LossRecord


class Logger(Protocol):
    """Takes the figures of a run one by one. One file each; which there are is in `surgery.run.loggers`."""

    def loss(self, record: LossRecord) -> None:
        """A step of training is done; a resumed run tells of the steps after its last checkpoint again."""

    def stage(self, metrics: StageMetrics) -> None:
        """The model of a stage has been measured."""

    def close(self) -> None:
        """The run has ended or is given up."""


def scalars(record: LossRecord) -> dict[str, float]:
    """The figures of a step by names such as `distil/loss`."""
    found = {"loss": record.loss, **{f"sites/{path}": loss for path, loss in record.sites.items()}}
    if record.validation is not None:
        found["held_out"] = record.validation
    return {f"{record.stage}/{name}": value for name, value in found.items()}


def figures(metrics: StageMetrics) -> dict[str, float]:
    """What was measured of a stage by names such as `teacher/frechet`."""
    values = {**metrics.values, "seconds": metrics.seconds}
    return {f"{metrics.stage}/{name}": value for name, value in values.items() if value is not None}
