"""The command line. Results go to stdout, progress and errors to stderr; torch is imported when a command needs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import NoReturn

import cyclopts

from surgery.cli import runs, searches  # noqa: F401  # their commands are there then
from surgery.cli.commands import app
from surgery.errors import LostError, ProcessError, SurgeryError
from surgery.parallel.group import INTERRUPTED, LOST, has_lost, joined, speaks_of_failure

__all__ = ["app", "main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, as one of several processes if the environment tells of them.

    Args:
        arguments: those of the process by default.

    Returns:
        the exit status: 0 done, 1 failed, 2 usage or invalid recipe, 3 no match, 128 more than the signal that ended it.
    """
    with joined(), _terminable():
        status, message = _run(arguments)
    for line in message.splitlines():
        print(f"surgery: {line}", file=sys.stderr)
    return status


class _Terminated(KeyboardInterrupt):
    """SIGTERM, by which a scheduler of jobs or a container ends what it has started."""


def _terminated(*_: object) -> NoReturn:
    raise _Terminated


@contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM end a command as Ctrl-C does; a process that shares a run may wait for another, and ends at once."""
    if current_thread() is not main_thread() or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str] | None) -> tuple[int, str]:
    """The exit status, and what is wrong."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        return _failed(str(error), 2)
    except SurgeryError as error:
        return _failed(str(error), error.exit_status, error)
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        return _failed(INTERRUPTED, 128 + number)
    except (MemoryError, OverflowError) as error:
        return _failed(f"a number is too large ({str(error) or type(error).__name__}); choose a smaller one", 1)
    except BrokenPipeError:
        # Whoever read the output (`head`, say) has had enough; Python would complain once more as it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, ""
    except RuntimeError as error:
        if not has_lost(error):
            raise
        return _failed(LOST, 1, LostError(LOST))
    except OSError as error:
        return _failed(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    return 0, ""


def _failed(message: str, status: int, error: SurgeryError | None = None) -> tuple[int, str]:
    """Nothing is said if another process does, or has."""
    said_by_its_process = isinstance(error, ProcessError) and not message
    speaks = not said_by_its_process and speaks_of_failure(error)
    return status, (message.strip() or "failed") if speaks else ""
