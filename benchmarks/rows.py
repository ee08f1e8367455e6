"""Figures that are written as soon as they are there, and measurements in processes of their own that end in time."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

LOCK = "SURGERY_BENCHMARK_LOCK"
"""Names a file that whoever uses the GPU to measure a time holds meanwhile."""
PR_SET_PDEATHSIG = 1
AGAIN = 2.0
"""Seconds after which a measurement that is not ended is told again: what is raised in a finalizer goes nowhere."""
Process = subprocess.Popen[bytes]
LONGEST = 600
"""Characters of an error that are kept, from its end."""


class TooLong(BaseException):
    """A measurement has taken longer than it may; nothing that it calls takes this for an error of its own."""


def add(file: Path, **row: Any) -> None:
    """Append a row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
    print(json.dumps(row)[:LONGEST], file=sys.stderr)


def read(file: Path) -> list[dict[str, Any]]:
    """All rows; none if there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@contextmanager
def measured(file: Path, seconds: float, **what: Any) -> Iterator[dict[str, Any]]:
    """Adds a row of `what`, and of what the block puts into the dict that it is given: to its end, to its error, which
    does not leave the block, or so far as it has come in so many seconds."""

    def late(_signal: int, _frame: FrameType | None) -> None:
        raise TooLong

    row: dict[str, Any] = {}
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield row
    except TooLong:
        row["error"] = f"not done after {seconds:.0f} s"
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"[-LONGEST:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        add(file, **what, **row)


@contextmanager
def alone() -> Iterator[None]:
    """Waits until no other benchmark is measuring a time, if several are at work."""
    path = os.environ.get(LOCK)
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start(script: str, *arguments: str, **environment: str) -> Process:
    """A benchmark of this folder in a process, and a group, of its own, which ends with this one."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_end_with_parent)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def in_turns(starts: Mapping[str, Callable[[], Process]], at_once: int, seconds: float, file: Path) -> None:
    """Run processes by name, so many at once and so long in all; a row for each that fails or has to be ended."""
    last = time.monotonic() + seconds
    waiting, running = dict(starts), dict[str, Process]()
    while waiting or running:
        while waiting and len(running) < at_once:
            name = next(iter(waiting))
            running[name] = waiting.pop(name)()
        late = time.monotonic() > last
        for name, process in list(running.items()):
            code = process.poll()
            if late and code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if late or code is not None:
                del running[name]
            if late or code:
                add(file, process=name, error=f"ended after {seconds:.0f} s" if code is None else f"exit status {code}")
        if late:
            for name in waiting:
                add(file, process=name, error=f"not started in {seconds:.0f} s")
            return
        time.sleep(0.05)
