"""Trackio."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from surgery.evaluate.results import StageMetrics
from surgery.run.loggers.base import figures, scalars
from surgery.training.record import LossRecord


class Trackio:
    """Logs to the project "surgery", the run being called as its folder; a resumed run goes on where it was."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        trackio = import_module("trackio")
        self._run: Any = trackio.init(project="surgery", name=folder.name, config=dict(recipe), resume="allow")

    def loss(self, record: LossRecord) -> None:
        """See `Logger`."""
        self._run.log({f"{record.stage}/step": record.step, **scalars(record)})

    def stage(self, metrics: StageMetrics) -> None:
        """See `Logger`."""
        self._run.log(figures(metrics))

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()
