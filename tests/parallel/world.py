"""Several processes, forked from the test's own, which is quick: nothing is imported again."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch.distributed as dist

LONGEST = 120


def in_processes(count: int, function: Callable[[], Any]) -> list[Any]:
    """What `function` returns, or the text of what it raises, in each of `count` processes that are a group."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [fork.Pipe(duplex=False) for _ in range(count)]
        children = [
            fork.Process(target=_run, args=(number, count, Path(folder) / "store", function, end))
            for number, (_, end) in enumerate(pipes)
        ]
        for child, (_, end) in zip(children, pipes, strict=True):
            child.start()
            end.close()
        try:
            return [_received(end) for end, _ in pipes]
        finally:
            for child in children:
                child.join(LONGEST)
                child.kill()


def _received(end: Connection) -> Any:
    assert end.poll(LONGEST), "a process hangs"
    try:
        return pickle.loads(end.recv_bytes())  # torch's own way of sending tensors needs the sender to stay
    except EOFError:
        return "killed"


def _run(number: int, count: int, store: Path, function: Callable[[], Any], end: Connection) -> None:
    if count > 1:
        held = dist.FileStore(str(store), count)
        dist.init_process_group("gloo", store=held, rank=number, world_size=count, timeout=timedelta(seconds=LONGEST))
        dist.barrier()  # one that leaves before all are connected would break the others' connection
    try:
        found = function()
    except Exception as error:
        found = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    end.send_bytes(pickle.dumps(found))
    end.close()
