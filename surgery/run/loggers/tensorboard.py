"""TensorBoard: event files in the folder of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.evaluate.results import StageMetrics
from surgery.run.loggers.base import figures, scalars
from surgery.training.record import LossRecord


class TensorBoard:
    """Writes `DIR/tensorboard`, to be seen with `tensorboard --logdir DIR`; of a step told twice the later counts."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder / "tensorboard")
        self._writer.add_text("recipe", f"```json\n{json.dumps(recipe, indent=2)}\n```")

    def loss(self, record: LossRecord) -> None:
        """See `Logger`."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.step)

    def stage(self, metrics: StageMetrics) -> None:
        """See `Logger`."""
        for name, value in figures(metrics).items():
            self._writer.add_scalar(name, value, 0)
        self._writer.flush()

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()
