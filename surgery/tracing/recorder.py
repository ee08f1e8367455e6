"""Records a running model: torch functions through a `TorchFunctionMode`, module calls through `nn.Module.__call__`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from surgery.errors import TraceError
from surgery.recording.autocast import autocast_state
from surgery.recording.cost import Counted, FlopCounter, cost_of
from surgery.recording.scope import Recording, Scope, binder, is_input, signature_of, unbind
from surgery.recording.skeleton import owned_tensors
from surgery.recording.state import own_class
from surgery.recording.stock import stock_class
from surgery.tracing.attributes import Attributes
from surgery.tracing.autocast import recorded_autocast
from surgery.tracing.effects import has_effects
from surgery.tracing.fingerprint import call_key
from surgery.tracing.flex import recorded_flex
from surgery.tracing.frame import Frame
from surgery.tracing.known_values import Values
from surgery.tracing.leaves import containers
from surgery.tracing.on_meta import run_on_meta
from surgery.tracing.reads import READERS, read
from surgery.tracing.sizes import Number, concrete
from surgery.tracing.stand_ins import Followed, origin_of, stand_in

_call = nn.Module.__call__

# Reads that a recording's signature already covers, or that say nothing about the computation.
FREE_ATTRIBUTES = {"device", "layout", "is_cuda", "is_meta", "is_mps", "is_xpu", "is_sparse", "is_quantized",
                   "is_nested", "itemsize", "grad", "grad_fn", "is_leaf", "names", "requires_grad"}  # fmt: skip
FREE_METHODS = {"__hash__", "__repr__", "__format__", "is_floating_point", "is_complex",
                "get_device", "element_size"}  # fmt: skip
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
MODES = {torch._C._set_grad_enabled}
COVERED = {"dtype", "ndim"}  # of an input, by the signature
GUARDED_METHODS = {"dim", "ndimension", "stride", "is_contiguous", "storage_offset"}


STACKS = (
    nn.Sequential, nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)  # fmt: skip
"""The modules of torch that are opened, as they hold others."""


class Recorder(TorchFunctionMode):
    """Records one run of `model`, a skeleton on the meta device, and adds a recording to the scope of each module met.

    Args:
        model: the skeleton of the user's model.
        scopes: scopes by path; new ones are added.
        root: the path of `model` in the user's model, "" for the whole.
        leaves: paths of modules that are not opened.
        values: what is known of the values of tensors; None records without any.
        alone: whether only the graph of `model` itself is of use, not those of the modules below it.
    """

    def __init__(
        self,
        model: nn.Module,
        scopes: dict[str, Scope],
        root: str = "",
        leaves: frozenset[str] = frozenset(),
        values: Values | None = None,
        alone: bool = False,
    ):
        super().__init__()
        self._owned = owned_tensors(model, root)
        if values is not None:
            values.learn_owned(self._owned, root)
        self._values = values
        self._alone = alone
        self._local = {id(m): path for path, m in model.named_modules()}
        self._paths = {key: _join(root, path) for key, path in self._local.items()}
        self._scopes = scopes
        self._leaves = leaves
        self._frames: list[Frame] = []
        self._opaque = False
        self._attributes = Attributes(self._current, self._paths, self._owned)
        self._flops = FlopCounter()
        self._done: dict[Any, tuple[str, Recording]] = {}
        self._fingerprints: dict[int, Any] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While this context is open, calls of the model's modules and of torch functions are recorded."""
        recorder = self

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if recorder._opaque or id(module) not in recorder._paths:
                return _call(module, *args, **kwargs)
            with recorder._watching(False):
                return recorder._call_module(module, args, kwargs)

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            autocast = recorded_autocast(self._current, self._values)
            flex = recorded_flex(self._current, self._run_opaque)
            with self, self._flops, self._attributes.watched(), autocast, flex:
                yield
        finally:
            nn.Module.__call__ = _call  # type: ignore[method-assign]

    def _current(self) -> Frame | None:
        """The frame that the model's own code is recorded in, if it is its code that runs."""
        return self._frames[-1] if self._frames and not self._opaque else None

    # -- modules ---------------------------------------------------------------------------------------------------

    def _call_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self._paths[id(module)]
        if self._is_leaf(module, path):
            result, flops = self._run_opaque(lambda: self._call_leaf(module, concrete(args), concrete(kwargs)))
            flops, mixing = cost_of(module, (args, kwargs), flops)
        else:
            mixing = None
            result, flops = self._call_scope(module, path, args, kwargs)
        if not self._frames:
            return result
        frame = self._frames[-1]
        guarded = not isinstance(result, torch.Tensor)  # its structure may vary with the attributes of `module`
        node = frame.call("call_module", self._target(frame, path), args, kwargs, result, flops, guarded)
        node.meta["module_class"] = own_class(module)
        frame.has_effects = frame.has_effects or path in self._leaves or has_effects(node)
        node.meta["params"] = sum(p.numel() for p in module.parameters())
        if mixing is not None:
            node.meta["flops_mixing"] = mixing
        return result

    def _call_leaf(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        path = self._local[id(module)]
        if self._values is not None and self._values.know(args, kwargs) and self._values.know_module(path):
            return self._values.call(path, args, kwargs)
        return _call(module, *args, **kwargs)

    def _is_leaf(self, module: nn.Module, path: str) -> bool:
        in_torch = stock_class(type(module)) is not None and not isinstance(module, STACKS)
        return bool(self._frames) and (in_torch or isinstance(module, Counted) or path in self._leaves)

    def _target(self, frame: Frame, path: str) -> str:
        prefix = f"{frame.path}." if frame.path else ""
        if not path.startswith(prefix):
            raise TraceError(
                f"module {frame.path!r} calls {path!r}, which is not below it; declare {frame.path!r} a leaf"
            )
        return path[len(prefix) :]

    def _call_scope(
        self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, int]:
        """Record a call of `module` in a frame of its own, or reuse the recording of an identical call."""
        arguments = binder(type(module))(*args, **kwargs)
        leaves, spec = pytree.tree_flatten(arguments)
        # With values at hand every call is run: a replay would know the sizes of its results only.
        key = None if self._values else call_key(module, leaves, spec, self._fingerprints)
        scope = self._scope(path, module)  # before those of the modules below it
        if key in self._done:
            origin, recording = self._done[key]
            self._reuse(origin, path)
            result = self._replay(recording, leaves)
        else:
            recording, result = self._record(module, path, arguments, len(args), leaves, spec)
            if key is not None:
                self._done[key] = path, recording
        scope.add(recording)
        if self._frames and recording.has_effects:
            self._frames[-1].has_effects = True
        return result, recording.flops

    def _scope(self, path: str, module: nn.Module) -> Scope:
        if path not in self._scopes:
            self._scopes[path] = Scope(path, own_class(module), params=sum(p.numel() for p in module.parameters()))
        return self._scopes[path]

    def _record(
        self, module: nn.Module, path: str, arguments: dict[str, Any], positional: int, leaves: list[Any], spec: Any
    ) -> tuple[Recording, Any]:
        frame = Frame(path, self._owned, is_kept=not (self._alone and self._frames))
        signature = signature_of(own_class(module), leaves, spec, autocast_state())
        names = _leaf_names(arguments)
        inner = [frame.placeholder(n, v) if is_input(v) else v for n, v in zip(names, leaves, strict=True)]
        self._frames.append(frame)
        try:
            given = pytree.tree_unflatten(inner, spec)
            for keys, container in containers(given):
                frame.lend(keys[0] + "".join(f"[{key!r}]" for key in keys[1:]), container, () if path else keys)
            args, kwargs = unbind(type(module), given, positional)
            with self._watching(True):
                result = _call(module, *args, **kwargs)
        finally:
            self._frames.pop()
        recording = frame.finish(signature, spec, [origin_of(concrete(leaf)) for leaf in leaves], result)
        recording.state = self._attributes.state(frame)
        return recording, self._hand_back(result, inner, leaves)

    def _hand_back(self, result: Any, inner: list[Any], leaves: list[Any]) -> Any:
        """`result` for the caller: numbers lose the inner frame's tape; the caller's frame follows them anew."""
        outer = {id(i): leaf for i, leaf in zip(inner, leaves, strict=True)}
        return pytree.tree_map(lambda v: outer.get(id(v)) if id(v) in outer else self._fresh(v), result)

    def _fresh(self, value: Any) -> Any:
        if isinstance(value, torch.Size):
            return torch.Size(map(self._fresh, value))
        if isinstance(value, Followed) and self._frames:
            return stand_in(value, self._frames[-1])
        return self._frames[-1].track(value.value) if isinstance(value, Number) and self._frames else concrete(value)

    def _reuse(self, origin: str, path: str) -> None:
        """Give the modules below `path` the recordings of those below `origin`, an identical module."""
        if origin == path:
            return
        for known in [p for p in self._scopes if p.startswith(f"{origin}.")]:
            source, target = self._scopes[known], path + known[len(origin) :]
            scope = self._scopes.setdefault(target, Scope(target, source.module_class, params=source.params))
            for recording in source.recordings:
                scope.add(recording)

    def _replay(self, recording: Recording, leaves: list[Any]) -> Any:
        """The result of an identical call, without running it."""
        inputs = {id(before): now for before, now in zip(recording.in_leaves, leaves, strict=True)}
        return pytree.tree_unflatten([self._twin(v, inputs) for v in recording.out_leaves], recording.out_spec)

    def _twin(self, value: Any, inputs: dict[int, Any]) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) in inputs:
                return inputs[id(value)]
            blank = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")
            return blank.requires_grad_(value.requires_grad) if value.requires_grad else blank
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return self._frames[-1].track(value) if number and self._frames else value

    # -- torch functions -------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._opaque or not self._frames:
            return func(*args, **kwargs)
        frame = self._frames[-1]
        if getattr(func, "__name__", "") == "__get__":
            return self._read(frame, func.__self__.__name__, args[0], func)
        method = _method_name(func)
        if method in ("size", "numel", "nelement", "__len__"):
            return self._measure(frame, method, args, kwargs)
        if method in GUARDED_METHODS:
            return self._guarded(frame, method, args, kwargs)
        if method in FREE_METHODS:
            return func(*concrete(args), **concrete(kwargs))
        if method in READERS:
            return read(frame, self._values, method, args[0])
        return self._compute(frame, func, method, args, kwargs)

    def _read(self, frame: Frame, name: str, tensor: torch.Tensor, func: Any) -> Any:
        """An attribute of a tensor."""
        if name == "shape":
            return torch.Size([frame.size(tensor, i) for i in range(tensor.dim())])
        value = func(tensor)
        if isinstance(value, torch.Tensor):
            frame.call("call_function", getattr, (tensor, name), {}, value)
        elif name not in FREE_ATTRIBUTES and not (name in COVERED and frame.is_input(tensor)):
            source = frame.node_of(tensor)
            frame.guard(getattr, (source, name), value, f"{source.meta['text']}.{name}")
        return value

    def _measure(self, frame: Frame, name: str, args: Any, kwargs: Any) -> Any:
        """The sizes of a tensor, tracked."""
        tensor = args[0]
        dims = [*args[1:], *kwargs.values()]
        if name == "size":
            sizes = torch.Size([frame.size(tensor, i) for i in range(tensor.dim())])
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
        result, flops = self._run_opaque(lambda: self._execute(func, concrete(args), concrete(kwargs)))
        kind, target = ("call_method", method) if method else ("call_function", func)
        guarded = getattr(func, "__name__", "") in COUNTED_PIECES
        node = frame.call(kind, target, args, kwargs, result, flops, guarded)
        return frame.read(node, result) if isinstance(result, bool | int | float) else result

    def _execute(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self._values is None or func in MODES:
            return run_on_meta(func, args, kwargs)
        if self._values.know(args, kwargs):
            return self._values.run(func, args, kwargs)
        self._values.forget_written(func, args, kwargs)
        try:
            return run_on_meta(func, args, kwargs)
        except Exception:  # perhaps as sizes depend on values
            return self._values.size(func, args, kwargs, guess=not self._frames[-1].is_kept)

    def _run_opaque(self, call: Callable[[], Any]) -> tuple[Any, int]:
        """Run `call` unrecorded; with its result, the floating point operations that it took."""
        before = self._flops.total
        with self._watching(False):
            return call(), self._flops.total - before

    @contextmanager
    def _watching(self, watching: bool) -> Iterator[None]:
        """Whether what runs inside is the model's own code, to be recorded."""
        outer, self._opaque = self._opaque, not watching
        try:
            yield
        finally:
            self._opaque = outer


def _join(root: str, path: str) -> str:
    return f"{root}.{path}" if root and path else root or path


def _method_name(func: Any) -> str | None:
    """The name under which `func` is a method of tensors; None for other functions."""
    name = getattr(func, "__name__", "")
    return name if getattr(torch.Tensor, name, None) is func else _RENAMED.get(id(func))


# Methods that Python knows under another name than their own, such as `__pow__`, which calls itself `pow`.
_RENAMED = {id(method): name for name, method in vars(torch.Tensor).items() if callable(method)}


def _leaf_names(arguments: dict[str, Any]) -> list[str]:
    """A readable identifier for each leaf, such as `encoder_hidden_states` or `added_cond_kwargs_resolution`."""
    paths, _ = pytree.tree_flatten_with_path(arguments)
    return ["_".join(re.findall(r"\w+", pytree.keystr(path))) for path, _ in paths]
