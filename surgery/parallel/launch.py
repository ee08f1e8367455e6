"""Starting the processes of a run on this machine, by what torchrun starts them with."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from surgery.errors import ProcessError
from surgery.parallel.group import INTERRUPTED, SPEAKS

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Give the signals that are handled otherwise in the block their handlers back."""
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _logs(processes: int, folder: Path | None) -> DefaultLogsSpecs:
    if folder is None:
        os.environ.pop(SPEAKS, None)
        return DefaultLogsSpecs()
    os.environ[SPEAKS] = "1"
    folder.mkdir(parents=True, exist_ok=True)
    return DefaultLogsSpecs(str(folder), redirects=dict.fromkeys(range(1, processes), Std.ALL))


def run_on(processes: int, arguments: Sequence[str], log_dir: Path | None = None) -> None:
    """Run a command of `surgery` on so many processes.

    Args:
        processes: how many.
        arguments: of the command line.
        log_dir: where each process but the first writes what it says, in a folder of its own; None lets them be silent.

    Raises:
        ProcessError: one has failed, and has said why unless it was killed; the others were ended.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each has a level of its own
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, logs_specs=_logs(processes, log_dir),
    )  # fmt: skip
    try:
        with _own_handlers():
            elastic_launch(config, sys.executable)("-m", "surgery", *arguments)
    except SignalException as error:
        said = error.sigval == signal.SIGINT  # by the first process, which gets it too
        raise ProcessError("" if said else INTERRUPTED, 128 + error.sigval) from error
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            raise ProcessError("", failure.exitcode) from error
        ended_by = failure.signal_name()
        raise ProcessError(
            f"process {number} of {processes} was ended by {ended_by}, and the others with it; repeat the command with "
            "--resume", 1,
        ) from error  # fmt: skip
