"""Starting the processes of a run on this machine, by what torchrun starts them with."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from surgery.errors import ProcessError

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


def run_on(processes: int, arguments: Sequence[str]) -> None:
    """Run a command of `surgery` on so many processes.

    Args:
        processes: how many.
        arguments: of the command line.

    Raises:
        ProcessError: one has failed, and has said why unless it was killed; the others were ended.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0,
    )  # fmt: skip
    try:
        with _own_handlers():
            elastic_launch(config, sys.executable)("-m", "surgery", *arguments)
    except SignalException as error:
        raise ProcessError("", 128 + error.sigval) from error
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            raise ProcessError("", failure.exitcode) from error
        ended_by = failure.signal_name()
        raise ProcessError(
            f"process {number} of {processes} was ended by {ended_by}, and the others with it; repeat the command with "
            "--resume", 1,
        ) from error  # fmt: skip
