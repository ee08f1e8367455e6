"""What a forward asks of the modes that are on: the answer is guarded, where it makes a difference."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType, FrameType
from typing import Any
from unittest import mock

import torch

from surgery.recording.one_thread import uncompiled
from surgery.recording.torch_private import DisableTorchFunction
from surgery.recording.weak_cache import weakly_cached
from surgery.tracing.frame import Frame
from surgery.tracing.sizes import is_recorded

ASKED = ("is_grad_enabled", "is_inference_mode_enabled")

SILENT = {"TO_BOOL", "COPY", "CACHE", "POP_TOP", "NOT_TAKEN"}
"""Instructions between a question and the jump that it decides, by the version of Python."""


@contextmanager
def recorded_questions(current: Callable[[], Frame | None]) -> Iterator[None]:
    """While this context is open, what model code asks is guarded in the frame that `current` gives."""
    with ExitStack() as stack:
        for name in ASKED:
            stack.enter_context(mock.patch.object(torch, name, _asking(getattr(torch, name), current)))
        yield


def _asking(question: Callable[[], bool], current: Callable[[], Frame | None]) -> Callable[[], bool]:
    def ask() -> bool:
        answer, frame, caller = question(), current(), sys._getframe(1)
        if frame is not None and is_recorded(caller.f_globals) and not _is_idle(caller):
            with DisableTorchFunction():
                frame.guard(question, (), answer, f"torch.{question.__name__}()")
        return answer

    return uncompiled(ask)


def _is_idle(caller: FrameType) -> bool:
    """Whether `caller` goes the same way at either answer: `torch.is_grad_enabled() and self.x`, x being false."""
    after = [step for step in _instructions(caller.f_code) if step.offset > caller.f_lasti]
    jump, load, *rest = after[:8]
    if "IF_FALSE" not in jump.opname or not load.opname.startswith("LOAD_FAST"):
        return False
    value: Any = caller.f_locals.get(load.argval)
    for step in rest:
        if step.opname != "LOAD_ATTR":
            return "IF_FALSE" in step.opname and step.argval == jump.argval and not value
        value = getattr(value, step.argval, True)
    return False


@weakly_cached
def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname not in SILENT]
