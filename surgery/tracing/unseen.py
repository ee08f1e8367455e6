"""Records calls that no `TorchFunctionMode` is told of: custom autograd functions, scripted ones, arrays of NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.autograd import Function

from surgery.recording.calls import apply_function, reaches_gradient, run_scripted
from surgery.recording.torch_private import CheckpointFunction, DisableTorchFunction, ScriptFunction
from surgery.tracing.frame import Frame

Record = Callable[[Frame, Any, tuple[Any, ...], dict[str, Any]], Any]
"""Writes a call to a frame; gives its result."""


@contextmanager
def recorded_unseen(current: Callable[[], Frame | None], record: Record) -> Iterator[None]:
    """While this context is open, such calls become nodes of the frame that `current` gives, if any.

    Reentrant checkpointing is an autograd function; what it runs is recorded in its place, as no graph has a place for
    the recomputation.
    """

    def written(function: Any, *args: Any, **kwargs: Any) -> Any:
        frame = current()
        assert frame is not None
        with DisableTorchFunction():  # as in `__torch_function__`: what writes the node is no part of the model
            return record(frame, function, args, kwargs)

    plain, run, from_numpy = vars(Function)["apply"], ScriptFunction.__call__, torch.from_numpy

    def applied(cls: Any, *args: Any, **kwargs: Any) -> Any:
        frame = current()
        if frame is None:
            return plain.__get__(None, cls)(*args, **kwargs)  # a method of C or of Python, by the version
        if cls is CheckpointFunction:
            return _run_checkpointed(frame, *args)
        frame.has_effects = True  # it may change its arguments, or draw random numbers
        return written(apply_function, cls, *args, **kwargs)

    def scripted(self: Any, *args: Any, **kwargs: Any) -> Any:
        return written(run_scripted, self, *args, **kwargs) if current() else run(self, *args, **kwargs)

    def converted(array: Any) -> Any:
        return written(from_numpy, array) if current() else from_numpy(array)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Function, "apply", classmethod(applied)))
        stack.enter_context(mock.patch.object(ScriptFunction, "__call__", scripted))
        stack.enter_context(mock.patch.object(torch, "from_numpy", converted))
        yield


def _run_checkpointed(frame: Frame, function: Callable[..., Any], _: bool, *args: Any) -> Any:
    """Run what a reentrant checkpoint wraps; without gradients if none of its arguments has one, as it does."""
    tensors = tuple(arg for arg in args if isinstance(arg, torch.Tensor))
    reaches = reaches_gradient(*tensors)
    text = "whether an argument of torch.utils.checkpoint requires a gradient"
    frame.guard(reaches_gradient, frame.argument(tensors), reaches, text)
    with nullcontext() if reaches else torch.no_grad():
        return function(*args)
