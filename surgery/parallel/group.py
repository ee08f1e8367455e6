"""The processes that share a run, started by torchrun, `accelerate launch` or `--gpus`. One alone is a group too.

The first one writes files and speaks. All go through the same statements; what one of them reads of the world and decides
by has to come from the first.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from surgery.errors import LostError, SurgeryError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import ProcessGroup, Store

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=7)
"""For the others: a process that ends is noticed at once, and one that works may take its time."""
PATIENCE = 2.0
"""Seconds that a process which lost another one gives that to say why."""
FAILURES = "failures"
SPEAKS = "SURGERY_LOGS"
"""The variable of the environment that, set, lets every process say what it does: the output of each has a file then."""
INTERRUPTED = "interrupted; a run goes on if its command is repeated with --resume"
LOST = "another process of this run has ended; repeat the command with --resume"

_store: Store | None = None
_background: ProcessGroup | None = None
_alone = False
"""Whether this is the first process, and the others wait for what it does by itself."""


def size() -> int:
    """How many processes there are; 1 inside of `by_first`."""
    import torch.distributed as dist

    return dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    import torch.distributed as dist

    return dist.get_rank() if size() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that the environment tells of, while the block runs; all but the first are silent (`SPEAKS`)."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or size() > 1:
        yield
        return
    import torch.distributed as dist

    _join()
    try:
        with _silent(not is_first() and SPEAKS not in os.environ):
            yield
    finally:
        dist.destroy_process_group()


def _join() -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    global _store
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _store, number, processes = next(rendezvous("env://"))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore("group", _store),
        rank=number,
        world_size=processes,
        timeout=LONGEST_WAIT,
    )


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, killed perhaps: nobody would end it then."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def _silent(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def speaks_of_failure(error: BaseException | None = None) -> bool:
    """Whether this process, which has failed, is to say why: the first that fails does, or one that lost another."""
    if _store is None:
        return True
    try:
        if isinstance(error, LostError):
            time.sleep(PATIENCE)
        return _store.add(FAILURES, 1) == 1
    except RuntimeError:  # the store has gone with the process that held it
        return True


def from_first(value: T) -> T:
    """What the first process gives here."""
    import torch.distributed as dist

    if size() == 1:
        return value
    held: list[Any] = [value]
    with _watching():
        dist.broadcast_object_list(held, src=0)
    found: T = held[0]
    return found


def by_first(function: Callable[[], T]) -> T:
    """What `function` gives in the first process, which alone calls it; the others wait.

    Raises:
        SurgeryError: the one that it raises there, in all processes. Any other error of it is raised there, and the
            others have lost the first one.
    """
    if size() == 1:
        return function()
    value, error = _attempt(function) if is_first() else (None, None)
    value, told = from_first((value, error if error is None or isinstance(error, SurgeryError) else LostError(LOST)))
    if error is not None or told is not None:
        raise error or told  # type: ignore[misc]
    return value  # type: ignore[return-value]


def _attempt(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    global _alone
    _alone = True
    try:
        return function(), None
    except Exception as error:
        return None, error
    finally:
        _alone = False


def from_all(value: T) -> list[T]:
    """What each process gives here, in their order."""
    import torch.distributed as dist

    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    with _watching():
        dist.all_gather_object(found, value)
    return found


def to_first(value: T) -> list[T]:
    """What each process gives here, for the first one; the others get nothing."""
    import torch.distributed as dist

    if size() == 1:
        return [value]
    found: list[Any] | None = [None] * size() if is_first() else None
    with _watching():
        dist.gather_object(value, found)
    return found or []


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    import torch.distributed as dist

    if size() == 1:
        return
    with _watching():
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()


def background_group() -> ProcessGroup | None:
    """What the processes talk over in threads beside those that train; None for one alone. All call this at once."""
    import torch.distributed as dist

    global _background
    if size() > 1 and _background is None:
        _background = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return _background if size() > 1 else None


def has_lost(error: RuntimeError) -> bool:
    """Whether `error` says that another process cannot be reached, in whatever PyTorch does by itself."""
    import torch.distributed as dist

    return size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


@contextmanager
def _watching() -> Iterator[None]:
    """Raises LostError where another process has gone."""
    try:
        yield
    except RuntimeError as error:
        raise LostError(LOST) from error
