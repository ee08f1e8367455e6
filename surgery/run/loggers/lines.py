"""The losses of a run that goes on, as lines of JSON in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surgery.evaluate.results import StageMetrics
from surgery.training.record import LossRecord


class Lines:
    """Adds a line for each step to a file that anything may follow; every run has one, until it has ended."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def loss(self, record: LossRecord) -> None:
        """See `Logger`."""
        self._file.write(f"{json.dumps(asdict(record))}\n")
        self._file.flush()

    def stage(self, metrics: StageMetrics) -> None:
        """Nothing: metrics.json is written stage by stage."""

    def close(self) -> None:
        """See `Logger`."""
        self._file.close()


def read_lines(text: str) -> list[dict[str, Any]]:
    """The steps in a file of lines, in their order; of one that was made twice the later, cut lines left out.

    What is killed stops in the middle of a line, and its steps since the last checkpoint are made again.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in text.splitlines():
        try:
            record = json.loads(line)
            found[record["stage"], record["step"]] = record
        except (ValueError, TypeError, KeyError):
            continue
    return sorted(found.values(), key=lambda record: (record["stage"], record["step"]))
