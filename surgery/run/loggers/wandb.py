"""Weights & Biases."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from surgery.evaluate.results import StageMetrics
from surgery.run.loggers.base import figures, scalars
from surgery.training.record import LossRecord


class WandB:
    """Logs to the project "surgery", or the one of the environment; a resumed run goes on where it was."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._run: Any = import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", "surgery"),
            name=folder.name,
            id=identity,
            dir=str(folder),
            config=dict(recipe),
            resume="allow",
        )
        for stage in ("distil", "finetune"):  # each counts its own steps
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def loss(self, record: LossRecord) -> None:
        """See `Logger`."""
        self._run.log({f"{record.stage}/step": record.step, **scalars(record)})

    def stage(self, metrics: StageMetrics) -> None:
        """See `Logger`."""
        self._run.summary.update(figures(metrics))

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()
