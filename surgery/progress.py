"""Showing how far a long stage has come, on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0


class Stage(Protocol):
    """One stage that is under way."""

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:
        """Report that `steps` more steps are done, the last of them with `loss`."""


class Progress(Protocol):
    """Shows stages, as in `with progress.stage("distil", total=9) as stage: stage.advance(loss=0.1)`."""

    def stage(self, name: str, total: int, done: int = 0) -> AbstractContextManager[Stage]:
        """Open a stage of `total` steps, `done` of which were done before, by a run that is resumed."""

    def say(self, line: str) -> None:
        """Show a line, between stages."""


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Stage]:  # noqa: ARG002
        """Open a stage that is not shown."""
        yield _SilentStage()

    def say(self, line: str) -> None:
        """Show nothing."""


class RichProgress:
    """Shows stages on a stream, stderr by default, with loss, steps a second and time left.

    A terminal gets a bar; the environment variable NO_COLOR is honoured. A file, a pipe or a terminal that cannot move
    its cursor gets a plain line every `SECONDS_BETWEEN_LINES` and one at the end.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Stage]:
        """Open a stage of `total` steps, `done` of which were done before."""
        stream = self._stream or sys.stderr
        console = Console(file=stream)
        if not stream.isatty() or console.is_dumb_terminal:
            lines = _PlainStage(stream, name, total, done)
            try:
                yield lines
            finally:
                lines.close()
            return
        with Bars(*_columns(), console=console) as bars:
            yield _BarStage(bars, bars.add_task(name, total=total, completed=done, loss=""))

    def say(self, line: str) -> None:
        """Show a line, between stages."""
        print(line, file=self._stream or sys.stderr, flush=True)


class _SilentStage:
    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:
        pass


class _BarStage:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:
        if loss is not None:
            self._bars.update(self._task, loss=f"loss {loss:.4g}")
        self._bars.advance(self._task, steps)


class _PlainStage:
    def __init__(self, stream: TextIO, name: str, total: int, done: int) -> None:
        self._stream, self._name, self._total = stream, name, total
        self._first = self._done = done
        self._loss: float | None = None
        self._printed: int | None = None
        self._start = self._last_line = time.monotonic()

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:
        self._done += steps
        self._loss = loss
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print()

    def close(self) -> None:
        if self._printed != self._done:
            self._print()

    def _print(self) -> None:
        self._last_line = time.monotonic()
        self._printed = self._done
        parts = [f"{self._name} {self._done}/{self._total}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        rate = (self._done - self._first) / max(self._last_line - self._start, 1e-9)
        if rate > 0:
            left = timedelta(seconds=round((self._total - self._done) / rate))
            parts += [f"{rate:.2f} it/s", f"{left} left"]
        print(", ".join(parts), file=self._stream, flush=True)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:.2f} it/s")


def _columns() -> list[ProgressColumn]:
    return [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        _RateColumn(),
        TimeRemainingColumn(),
    ]
