"""Records calls of torch functions and methods, and reads of a tensor's attributes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import is_grad_enabled  # by this name nothing takes its place while a model is recorded

from surgery.analysis.roles.primitives import is_attention
from surgery.errors import TraceError
from surgery.recording.calls import apply_function, run_scripted
from surgery.recording.torch_private import set_grad_enabled
from surgery.tracing.devices import OF_TYPE
from surgery.tracing.frame import Frame
from surgery.tracing.known_values import KnownValues
from surgery.tracing.on_meta import run_on_meta
from surgery.tracing.randomness import refuse_generators
from surgery.tracing.reads import READERS, read
from surgery.tracing.sizes import concrete, takes_bare_sizes

Unrecorded = Callable[[Callable[[], Any]], tuple[Any, int]]
"""Runs a function without recording it; gives its result, and the floating point operations that it took."""

# Reads that a recording's signature already covers, or that say nothing about the computation.
FREE_ATTRIBUTES = {"_version", "layout", "is_sparse", "is_quantized", "is_nested", "itemsize", "names"}
FREE_METHODS = {"__hash__", "__repr__", "__format__", "is_floating_point", "is_complex", "element_size"}
# Functions that give as many pieces as a size says: a loop over them is unrolled, so their number is guarded.
COUNTED_PIECES = {
    "unbind",
    "split",
    "chunk",
    "tensor_split",
    "hsplit",
    "vsplit",
    "dsplit",
    "unsafe_chunk",
    "unsafe_split",
}
OPAQUE = {apply_function, run_scripted}
MODES = {set_grad_enabled}
COVERED = {"dtype", "ndim"}  # of an input, by the signature
NESTING = "_nested_tensor_from_mask_left_aligned"  # what nn.TransformerEncoder asks before it nests padded tokens
GUARDED_METHODS = {"dim", "ndimension", "stride", "is_contiguous", "storage_offset"}


class FunctionRecorder:
    """Writes calls to a frame as the model makes them.

    Args:
        values: what is known of the values of tensors; None records without any.
        unrecorded: how to run what computes a result.
    """

    def __init__(self, values: KnownValues | None, unrecorded: Unrecorded) -> None:
        self._values = values
        self._unrecorded = unrecorded

    def record(self, frame: Frame, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of `func(*args, **kwargs)`, which is written to `frame`."""
        try:
            return self._record(frame, func, args, kwargs)
        except Exception as error:
            frame.failure = error  # the forward may catch it
            raise

    def _record(self, frame: Frame, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `record`."""
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._read(frame, func.__self__.__name__, args[0], func)
        if name == NESTING:
            raise TraceError(
                "nn.TransformerEncoder nests padded tokens where no gradient is asked for, and gives zeros for them; "
                "make it with enable_nested_tensor=False"
            )
        method = _method_name(func)
        if method in ("size", "numel", "nelement", "__len__"):
            return self._measure(frame, method, args, kwargs)
        if method in GUARDED_METHODS:
            return self._guarded(frame, method, args, kwargs)
        if method == "get_device":
            index = frame.device_of(args[0]).index
            return -1 if index is None else index
        if method in FREE_METHODS:
            return func(*concrete(args), **concrete(kwargs))
        if method in READERS:
            return read(frame, self._values, method, args[0])
        return self._compute(frame, func, method, args, kwargs)

    def _read(self, frame: Frame, name: str, tensor: torch.Tensor, func: Any) -> Any:
        """An attribute of a tensor."""
        if name == "shape":
            return _sizes(frame, tensor)
        if name == "device" or name in OF_TYPE:
            device = frame.device_of(tensor)
            return device if name == "device" else device.type == OF_TYPE[name]
        value = func(tensor)
        if isinstance(value, torch.Tensor):
            frame.call("call_function", getattr, (tensor, name), {}, value)
        elif name == "grad_fn":  # no constant; whether there is one is what a forward asks
            frame.guard_attributes(tensor, "requires_grad", "is_leaf")
        elif name not in FREE_ATTRIBUTES and not (name in COVERED and frame.is_input(tensor)):
            frame.guard_attributes(tensor, name)
        return value

    def _measure(self, frame: Frame, name: str, args: Any, kwargs: Any) -> Any:
        """The sizes of a tensor, tracked."""
        tensor = args[0]
        dims = [*args[1:], *kwargs.values()]
        if name == "size":
            sizes = _sizes(frame, tensor)
            return sizes if not dims or dims[0] is None else sizes[concrete(dims[0])]
        if name == "__len__":
            return int(frame.size(tensor, 0))
        return math.prod(frame.size(tensor, i) for i in range(tensor.dim()))

    def _guarded(self, frame: Frame, name: str, args: Any, kwargs: Any) -> Any:
        """A method whose result is a bare value: the recording depends on it."""
        value = getattr(torch.Tensor, name)(*concrete(args), **concrete(kwargs))
        if name in ("dim", "ndimension") and frame.is_input(args[0]):
            return value
        node = frame.graph.call_method(name, frame.argument(args), frame.argument(kwargs))
        node.meta["text"] = f"{frame.node_of(args[0]).meta['text']}.{name}()"
        frame.require(node, value, node.meta["text"])
        return value

    def _compute(self, frame: Frame, func: Any, method: str | None, args: Any, kwargs: Any) -> Any:
        """A call that computes: it becomes one node."""
        if func in MODES:  # who leaves a region sets the mode that was there before it: a constant of the recording
            frame.guard(is_grad_enabled, (), is_grad_enabled(), "torch.is_grad_enabled()")
        refuse_generators(frame.generators, *args, *kwargs.values())
        result, flops = self._unrecorded(lambda: self._execute(frame, func, concrete(args), concrete(kwargs)))
        kind, target = ("call_method", method) if method else ("call_function", func)
        guarded = getattr(func, "__name__", "") in COUNTED_PIECES or func in OPAQUE
        node = frame.call(kind, target, args, kwargs, result, flops, guarded)
        if is_attention(node):
            node.meta["called_from"] = _lines()
        return frame.read(node, result) if isinstance(result, bool | int | float) else result

    def _execute(self, frame: Frame, func: Any, args: Any, kwargs: Any) -> Any:
        """The result on the meta device, with real values as far as they are known."""
        if self._values is None or func in MODES:
            return run_on_meta(func, args, kwargs)
        if self._values.know(args, kwargs):
            return self._values.run(func, args, kwargs)
        self._values.forget_written(func, args, kwargs)
        try:
            return run_on_meta(func, args, kwargs)
        except Exception:  # perhaps as sizes depend on values
            return self._values.size(func, args, kwargs, guess=not frame.is_kept)


def _lines() -> tuple[tuple[str, int], ...]:
    """The lines of code that are being run: the same again for each turn of a loop."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)


def _sizes(frame: Frame, tensor: torch.Tensor) -> torch.Size:
    """The sizes of a tensor as the code that asks takes them."""
    sizes = [frame.size(tensor, i) for i in range(tensor.dim())]
    return torch.Size(map(int, sizes) if takes_bare_sizes() else sizes)


def _method_name(func: Any) -> str | None:
    """The name under which `func` is a method of tensors; None for other functions."""
    name = getattr(func, "__name__", "")
    return name if getattr(torch.Tensor, name, None) is func else _RENAMED.get(id(func))


# Methods that Python knows under another name than their own, such as `__pow__`, which calls itself `pow`.
_RENAMED = {id(method): name for name, method in vars(torch.Tensor).items() if callable(method)}
