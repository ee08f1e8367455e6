"""Follows which attributes of the model's modules a forward reads while it is recorded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from surgery.errors import TraceError
from surgery.recording.attribute_change import AttributeChange
from surgery.recording.describe import Description
from surgery.recording.one_thread import uncompiled
from surgery.recording.paths import below, is_inside, names_of, relative
from surgery.recording.skeleton import BOOKKEEPING
from surgery.recording.state import MISSING, State, describe
from surgery.recording.surroundings import Global, original, surroundings
from surgery.recording.torch_private import DisableTorchFunction, pytree
from surgery.tracing.frame import Frame
from surgery.tracing.kept import Tensors, holds_data, refuse_changed, refuse_counter, refuse_kept, tensors_in
from surgery.tracing.randomness import GENERATORS, INSTEAD
from surgery.tracing.sizes import Number

# Read by `nn.Module.__call__`, or of no effect on the result (checkpointing: see `codegen`).
IGNORED = BOOKKEEPING - {"_modules", "_parameters", "_buffers"} | {
    "forward", "_call_impl", "_compiled_call_impl", "gradient_checkpointing", "_gradient_checkpointing_func"}  # fmt: skip


class Attributes:
    """The reads of each frame, and what the forward itself has set.

    Args:
        frame: gives the frame that the model's own code is being recorded in, None outside of it.
        paths: of the modules in the model, by id.
        owned: the model's own tensors by id.
    """

    def __init__(self, frame: Callable[[], Frame | None], paths: dict[int, str], owned: dict[int, Any]) -> None:
        self._frame = frame
        self._paths = paths
        self._owned = owned
        self._reads: dict[Frame, dict[tuple[str, str], tuple[Description, Any, Tensors]]] = {}
        self._around: dict[Frame, dict[Global, Description]] = {}
        self._set_in: dict[tuple[int, str], Frame] = {}
        self._sets: dict[Frame, dict[tuple[str, str], Any]] = {}
        self._made: dict[
            int, nn.Module
        ] = {}  # modules that a forward itself makes; their attributes are its own affair

    def state(self, frame: Frame) -> State:
        """What `frame` has read, with paths that start at its module."""
        found = self._reads.pop(frame, {}).items()
        around = self._around.pop(frame, {}).items()
        return (
            *((names_of(relative(path, frame.path)), name, description) for (path, name), (description, *_) in found),
            *(((), name, description) for name, description in around),
        )

    def note_around(self, frame: Frame, function: Any) -> None:
        """Add what `function`, which `frame` runs, reads of the Python around it."""
        function = original(getattr(function, "__func__", function))
        if isinstance(function, FunctionType):
            self._around.setdefault(frame, {}).update(surroundings(function))

    def kept(self, frame: Frame) -> list[tuple[AttributeChange, list[Any]]]:
        """What `frame` has set in its modules, with the leaves of the values; none if all of it is a cache by size.

        Raises:
            TraceError: it counts, keeps data in a container, or changes a global variable.
        """
        for variable, known in self._around.get(frame, {}).items():
            refuse_changed(variable, known)
        for (path, name), (before, value, tensors) in self._reads.get(frame, {}).items():
            if name not in BOOKKEEPING:
                refuse_kept(below(path, name), before, tensors, value, frame.node_of)
        found = self._sets.pop(frame, {})
        if not any(holds_data(value, frame.node_of) for value in found.values()):
            return []
        return [self._change(frame, path, name, value) for (path, name), value in found.items()]

    @staticmethod
    def _change(frame: Frame, path: str, name: str, value: Any) -> tuple[AttributeChange, list[Any]]:
        leaves, spec = pytree.tree_flatten(value)
        return AttributeChange(names_of(relative(path, frame.path)), name, spec), leaves

    @property
    def written(self) -> int:
        """How many attributes have been set so far."""
        return len(self._set_in)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this context is open, reads and writes of module attributes are followed."""
        nn.Module.__getattribute__ = self._reader()  # type: ignore[assignment, method-assign]
        set_attribute, start = nn.Module.__setattr__, nn.Module.__init__
        nn.Module.__setattr__ = self._writer(set_attribute)  # type: ignore[assignment, method-assign]
        nn.Module.__init__ = self._maker(start)  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__setattr__, nn.Module.__init__ = set_attribute, start  # type: ignore[method-assign]
            del nn.Module.__getattribute__

    def _reader(self) -> Callable[[nn.Module, str], Any]:
        """What takes the place of `nn.Module.__getattribute__`."""

        def read(module: nn.Module, name: str) -> Any:
            frame = None if name in IGNORED or name.startswith(("__", "_surgery")) else self._frame()
            if frame is None:
                return object.__getattribute__(module, name)
            try:
                value = _value(module, name)
            except AttributeError:
                self._note(frame, module, name, MISSING)
                raise
            is_method = isinstance(value, MethodType | FunctionType)
            if is_method:
                self.note_around(frame, value)
            if is_method or not _is_code(type(module), name) or name in vars(module):
                self._note(frame, module, name, value)
            return value

        return uncompiled(read)

    def _writer(self, set_attribute: Callable[[nn.Module, str, Any], None]) -> Callable[[nn.Module, str, Any], None]:
        """What takes the place of `nn.Module.__setattr__`."""

        def write(module: nn.Module, name: str, value: Any) -> None:
            frame = None if name.startswith(("__", "_surgery")) else self._frame()
            if frame is not None:
                self._note_set(frame, module, name, value)
            set_attribute(module, name, value)

        return uncompiled(write)

    def _maker(self, start: Callable[..., None]) -> Callable[..., None]:
        """What takes the place of `nn.Module.__init__`."""

        def make(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            if self._frame() is not None:
                self._made[id(module)] = module
            start(module, *args, **kwargs)

        return uncompiled(make)

    def _note_set(self, frame: Frame, module: nn.Module, name: str, value: Any) -> None:
        """Remember that `frame` sets an attribute."""
        path = self._paths.get(id(module))
        if id(module) in self._made:
            return
        if path is None or not is_inside(path, frame.path):
            raise TraceError(f"the forward sets {name!r} of a {type(module).__name__}, which is not below it")
        before, *_ = self._reads.get(frame, {}).get((path, name), (MISSING,))
        refuse_counter(below(path, name), before, describe(value))
        self._set_in[id(module), name] = frame
        self._sets.setdefault(frame, {})[path, name] = value

    def _note(self, frame: Frame, module: nn.Module, name: str, value: Any) -> None:
        """Add a read of `frame`, if it is one of state and not of what the forward computes itself."""
        path = self._paths.get(id(module))
        writer = self._set_in.get((id(module), name), frame)
        if writer is not frame:
            raise TraceError(f"module {path!r}: reads {name!r}, which the forward of {writer.path!r} sets as it runs")
        if (id(module), name) in self._set_in or self._is_data(value):
            return
        if path is None or not is_inside(path, frame.path):
            self._note_given(frame, module, name, value)
            return
        if isinstance(value, GENERATORS):
            raise TraceError(f"module {path!r}: draws random numbers from a generator of its own, {name!r}; {INSTEAD}")
        if isinstance(value, Iterator):
            raise TraceError(
                f"module {path!r}: reads {name!r}, a {type(value).__name__} that each call finds elsewhere; keep a list, "
                "and the position in a buffer"
            )
        reads = self._reads.setdefault(frame, {})
        if (path, name) not in reads:
            reads[path, name] = (value if value is MISSING else describe(value)), value, tensors_in(value)

    def _note_given(self, frame: Frame, module: nn.Module, name: str, value: Any) -> None:
        """Guard a read of a module that is not below that of `frame`, but among its arguments."""
        path = self._paths.get(id(module))
        if frame.gives(module):
            with DisableTorchFunction():
                frame.guard_given(module, name, value if value is MISSING else describe(value))
        elif path is not None:
            raise TraceError(
                f"module {frame.path!r}: reads {name!r} of {path!r}, which is not below it; pass it as an argument"
            )

    def _is_data(self, value: Any) -> bool:
        """Whether `value` was computed during the recording, so that the graph follows it."""
        return isinstance(value, Number) or (isinstance(value, torch.Tensor) and id(value) not in self._owned)


def _value(module: nn.Module, name: str) -> Any:
    """As `getattr`, past the stand-in for `__getattribute__`."""
    try:
        return object.__getattribute__(module, name)
    except AttributeError:
        return type(module).__getattr__(module, name)


def _is_code(module_class: type[nn.Module], name: str) -> bool:
    """Whether `name` is a method or property: its own reads are followed instead."""
    return hasattr(inspect.getattr_static(module_class, name, None), "__get__")
