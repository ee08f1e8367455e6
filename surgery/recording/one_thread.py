"""One thread records at a time, as a recording replaces functions that all threads call.

What it puts in their places asks which thread calls, so that all others run on as if nothing were replaced. Only who
compiles waits: `torch.compile` reads the code of what it calls, whichever thread that is meant for.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from surgery.recording.torch_private import TorchDispatchMode

Function = TypeVar("Function", bound=Callable[..., Any])

_lock = threading.RLock()


class _Held(threading.local):
    depth = 0


_held = _Held()


@contextmanager
def one_thread() -> Iterator[None]:
    """While this context is open, other threads that open it wait; one thread may open it more than once."""
    with nullcontext() if is_this_thread() else _no_compilation(), _lock:
        _held.depth += 1
        try:
            yield
        finally:
            _held.depth -= 1


def _no_compilation() -> AbstractContextManager[Any]:
    """The lock of `torch.compile`. It is taken first, as who compiles has it when a recording is asked for."""
    compiler = sys.modules.get("torch._dynamo.convert_frame")
    return nullcontext() if compiler is None else compiler.compile_lock


def is_this_thread() -> bool:
    """Whether it is this thread that has `one_thread` open."""
    return _held.depth > 0


def here(stand_in: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is `stand_in` to the thread that has `one_thread` open, and `plain` to all others."""

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (stand_in if is_this_thread() else plain)(*args, **kwargs)

    return uncompiled(call)


def uncompiled(function: Function) -> Function:
    """`function`, which `torch.compile` does not follow, though what it calls: who compiles is to see none of it."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if compiler is not None:
        compiler.skip_code(function.__code__)
    return function


class OneThreadMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that `one_thread` is open in: PyTorch notes for the whole process that a dispatch mode is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alone = list[Any]()

    def __enter__(self) -> Any:
        alone = one_thread()
        alone.__enter__()
        self._alone.append(alone)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._alone.pop().__exit__(None, None, None)
