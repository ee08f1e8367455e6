"""Records `torch.autocast` inside a model: nodes that open and close the region take the place of the context manager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from surgery.errors import TraceError
from surgery.recording.autocast import autocast_state, enter_autocast, exit_autocast
from surgery.recording.one_thread import here
from surgery.tracing.frame import Frame


@contextmanager
def recorded_autocast(current: Callable[[], Frame | None], main: torch.device, can_cast: bool) -> Iterator[None]:
    """While this context is open, autocast regions are written to the frame that `current` gives, if any.

    The device that a region names is "meta" if the model asked a tensor for it and none is known; the graph then asks
    at run time.

    Args:
        main: the device that the model runs on.
        can_cast: whether real values are at hand, as nothing is cast on the meta device.
    """
    device = "cpu" if main.type == "meta" else main.type
    plain = torch.autocast.__init__, torch.autocast.__enter__, torch.autocast.__exit__

    def init(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> None:
        self._asked = (device_type, dtype, enabled, cache_enabled)
        plain[0](self, device if device_type == "meta" else device_type, dtype, enabled, cache_enabled)

    def enter(self: Any) -> Any:
        frame = current()
        if frame is not None:
            asked = getattr(self, "_asked", (self.device, self.fast_dtype, self._enabled, self._cache_enabled))
            self._region = frame.graph.call_function(enter_autocast, (_device_type(frame, asked[0]), *asked[1:]))
        if not can_cast and self._enabled and self.device == device:
            raise TraceError(
                "the model casts by torch.autocast, which the meta device cannot; trace it with real inputs"
            )
        return plain[1](self)  # type: ignore[no-untyped-call]

    def leave(self: Any, *error: Any) -> Any:
        frame = current()
        if frame is not None:
            frame.graph.call_function(exit_autocast, (self._region,))
        return plain[2](self, *error)

    init_here, enter_here, leave_here = here(init, plain[0]), here(enter, plain[1]), here(leave, plain[2])
    with mock.patch.multiple(torch.autocast, __init__=init_here, __enter__=enter_here, __exit__=leave_here):
        yield


@contextmanager
def without_autocast() -> Iterator[None]:
    """While this context is open, nothing is cast."""
    with ExitStack() as stack:
        for device, _ in autocast_state():
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _device_type(frame: Frame, name: str) -> Any:
    """The device type as a constant, or as a node if the model asks a tensor for it."""
    return frame.graph.call_function(getattr, (frame.device(), "type")) if name == "meta" else name
