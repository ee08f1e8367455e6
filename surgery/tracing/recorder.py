"""Records a running model: torch functions through a `TorchFunctionMode`, module calls through `nn.Module.__call__`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from surgery.errors import TraceError
from surgery.recording.autocast import autocast_state
from surgery.recording.binding import binder, unbind
from surgery.recording.calls import call_given
from surgery.recording.cost import Counted, FlopCounter, cost_of
from surgery.recording.objects import origin_of
from surgery.recording.one_thread import here, is_this_thread
from surgery.recording.paths import below, is_inside, relative
from surgery.recording.recording import Recording, Scope
from surgery.recording.signature import is_input, signature_of
from surgery.recording.skeleton import owned_parts, shares_parts
from surgery.recording.state import own_class
from surgery.recording.stock import is_closed
from surgery.recording.torch_private import pytree
from surgery.tracing.attributes import Attributes
from surgery.tracing.autocast import recorded_autocast
from surgery.tracing.devices import Devices
from surgery.tracing.effects import may_have_effects
from surgery.tracing.fingerprint import call_key
from surgery.tracing.flex import recorded_flex
from surgery.tracing.frame import Frame
from surgery.tracing.functions import FunctionRecorder
from surgery.tracing.handing_back import handed_back
from surgery.tracing.hidden import refuse_hidden
from surgery.tracing.known_values import KnownValues
from surgery.tracing.leaves import containers, leaf_names
from surgery.tracing.modes import recorded_questions
from surgery.tracing.randomness import drawing_nothing, seeding_refused
from surgery.tracing.replay import replayed, share_recordings
from surgery.tracing.sizes import concrete
from surgery.tracing.unseen import recorded_unseen

_call = nn.Module.__call__


class Recorder(TorchFunctionMode):
    """Records one run of `model`, a skeleton on the meta device, and adds a recording to the scope of each module met.

    Args:
        model: the skeleton of the user's model.
        scopes: scopes by path; new ones are added.
        devices: where the user's tensors are.
        root: the path of `model` in the user's model, "" for the whole.
        leaves: paths of modules that are not opened.
        values: what is known of the values of tensors; None records without any.
        alone: whether only the graph of `model` itself is of use, not those of the modules below it.
    """

    def __init__(
        self,
        model: nn.Module,
        scopes: dict[str, Scope],
        devices: Devices,
        root: str = "",
        leaves: frozenset[str] = frozenset(),
        values: KnownValues | None = None,
        alone: bool = False,
    ):
        super().__init__()
        self._owned = owned_parts(model, root)
        self._shares = shares_parts(model)
        if values is not None:
            values.learn_owned(self._owned, root)
        self._values = values
        self._devices = devices
        self._alone = alone
        self._local = {id(m): path for path, m in model.named_modules()}
        self._paths = {key: below(root, path) for key, path in self._local.items()}
        self._places: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False) if self._shares else ():
            self._places.setdefault(id(module), []).append(below(root, path))
        self._scopes = scopes
        self._leaves = leaves
        self._frames: list[Frame] = []
        self._opaque = False
        self._functions = FunctionRecorder(values, self._run_opaque)
        self._attributes = Attributes(self._current, self._paths, self._owned)
        self._flops = FlopCounter()
        self._done: dict[Any, tuple[str, Recording]] = {}
        self._fingerprints: dict[int, Any] = {}
        self._counts: dict[int, int] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While this context is open, calls of the model's modules and of torch functions are recorded."""
        recorder = self

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            frame = recorder._current()
            is_given = frame is not None and frame.gives(module)
            if recorder._opaque or not (is_given or id(module) in recorder._paths):
                return _call(module, *args, **kwargs)
            with recorder._watching(False):
                return recorder._call_from(frame, module, args, kwargs)

        nn.Module.__call__ = here(call, _call)  # type: ignore[method-assign]
        try:
            autocast = recorded_autocast(self._current, self._devices.main, can_cast=self._values is not None)
            flex = recorded_flex(self._current, self._run_opaque)
            unseen = recorded_unseen(self._current, self._functions.record)
            seeding = seeding_refused(lambda: self._current() is not None)
            asked = recorded_questions(self._current)
            with self, self._flops, self._attributes.watched(), autocast, flex, unseen, seeding, asked:
                yield
        finally:
            nn.Module.__call__ = _call  # type: ignore[method-assign]

    def _current(self) -> Frame | None:
        """The frame that the model's own code is recorded in, if it is its code that runs."""
        return self._frames[-1] if self._frames and not self._opaque and is_this_thread() else None

    # -- modules ---------------------------------------------------------------------------------------------------

    def _call_from(self, frame: Frame | None, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `_call_module`; `frame` remembers an error, as its forward may catch it."""
        try:
            return self._call_module(module, args, kwargs)
        except Exception as error:
            if frame is not None:
                frame.failure = error
            raise

    def _call_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a module as one node of the caller's frame."""
        path = self._paths.get(id(module))  # none: it is an argument of what is recorded
        mixing = None
        if path is None or self._is_leaf(module, path):
            if path is not None:
                self._refuse_exchanged(module, path)
            result, flops = self._run_opaque(lambda: self._call_leaf(module, concrete(args), concrete(kwargs)))
            flops, mixing = cost_of(module, (args, kwargs), flops)
        else:
            result, flops = self._call_scope(module, path, args, kwargs)
        refuse_hidden(result)
        if self._frames:
            node = self._write_call(self._frames[-1], module, path, args, kwargs, result, flops)
            if mixing is not None:
                node.meta["flops_mixing"] = mixing
        return result

    def _write_call(
        self, frame: Frame, module: nn.Module, path: str | None, args: Any, kwargs: Any, result: Any, flops: int
    ) -> fx.Node:
        """The node of a call of a module, which is below that of `frame` or among its arguments."""
        guarded = not isinstance(result, torch.Tensor)  # its structure may vary with the attributes of `module`
        own = None if path is None else self._place_below(frame, module, path)
        if own is not None:
            node = frame.call("call_module", relative(own, frame.path), args, kwargs, result, flops, guarded)
        elif frame.gives(module):
            node = frame.call("call_function", call_given, (module, *args), kwargs, result, flops, guarded=True)
        else:
            raise TraceError(
                f"module {frame.path!r} calls {path!r}, which is neither below it nor an argument; pass it as an "
                f"argument, or declare {frame.path!r} a leaf"
            )
        node.meta["module_class"] = own_class(module)
        node.meta["params"] = self._count(module)
        frame.has_effects = frame.has_effects or path is None or path in self._leaves or self._may_keep(module, path)
        return node

    def _place_below(self, frame: Frame, module: nn.Module, path: str) -> str | None:
        """Where a module stands below that of `frame`, if not at its first `path`: then it is recorded for there too."""
        if is_inside(path, frame.path):
            return path
        place = next((place for place in self._places.get(id(module), ()) if is_inside(place, frame.path)), None)
        if place is not None and path in self._scopes:
            scope = self._scope(place, module)
            for recording in self._scopes[path].recordings:
                scope.add(recording)
            share_recordings(self._scopes, path, place)
        return place

    def _may_keep(self, module: nn.Module, path: str) -> bool:
        """Whether a module that is called as a whole may have effects; what an opened one has is in its recording."""
        return self._is_leaf(module, path) and may_have_effects(module)

    def _refuse_exchanged(self, module: nn.Module, path: str) -> None:
        """Raise TraceError if a module is called with other weights than its own, which a call of it would not tell."""
        if any(id(tensor) not in self._owned for tensor in (*module.parameters(), *module.buffers())):
            raise TraceError(
                f"module {path!r} is called with other weights than its own, as torch.func.functional_call does; call "
                "the function of the module on them instead, or declare the module that does it a leaf"
            )

    def _call_leaf(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Run a module that is not opened; with values, if its arguments and weights are known."""
        path = self._local.get(id(module))
        if (
            self._values is not None
            and path is not None
            and self._values.know(args, kwargs)
            and self._values.know_module(path)
        ):
            return self._values.call(path, args, kwargs)
        return _call(module, *args, **kwargs)

    def _is_leaf(self, module: nn.Module, path: str) -> bool:
        """Whether a module is called as a whole: those of torch, counted operators, and what the user names."""
        return bool(self._frames) and (is_closed(module) or isinstance(module, Counted) or path in self._leaves)

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
            share_recordings(self._scopes, origin, path)
            result = replayed(recording, leaves, self._frames[-1].track if self._frames else None)
        else:
            written = self._attributes.written
            recording, result = self._record(module, path, arguments, len(args), leaves, spec)
            if key is not None and self._attributes.written == written:
                self._done[key] = path, recording
        scope.add(recording)
        if self._frames and recording.has_effects:
            self._frames[-1].has_effects = True
        return result, recording.flops

    def _scope(self, path: str, module: nn.Module) -> Scope:
        if path not in self._scopes:
            self._scopes[path] = Scope(path, own_class(module), params=self._count(module))
        return self._scopes[path]

    def _count(self, module: nn.Module) -> int:
        """How many parameters a module has."""
        if id(module) not in self._counts:
            self._counts[id(module)] = sum(p.numel() for p in module.parameters())
        return self._counts[id(module)]

    def _record(
        self, module: nn.Module, path: str, arguments: dict[str, Any], positional: int, leaves: list[Any], spec: Any
    ) -> tuple[Recording, Any]:
        """Run a module in a frame of its own; its recording, and the result for the caller."""
        # A tensor that several modules have goes by the name that it has in this one.
        owned = self._owned | owned_parts(module, path) if self._shares else self._owned
        frame = Frame(path, owned, self._devices, is_kept=not (self._alone and self._frames))
        signature = signature_of(own_class(module), list(map(origin_of, leaves)), spec, autocast_state())
        names = leaf_names(arguments)
        of_model = bool(self._frames)
        inner = [frame.placeholder(n, v, of_model) if is_input(v) else v for n, v in zip(names, leaves, strict=True)]
        frame.generators = [leaf for leaf in leaves if isinstance(leaf, torch.Generator)]
        self._frames.append(frame)
        try:
            given = pytree.tree_unflatten(inner, spec)
            for keys, container in containers(given):
                frame.lend(keys[0] + "".join(f"[{key!r}]" for key in keys[1:]), container, () if path else keys)
            args, kwargs = unbind(type(module), given, positional)
            self._attributes.note_around(frame, own_class(module).forward)
            with drawing_nothing(type(module).__name__), self._watching(True):
                result = module.forward(*args, **kwargs)  # no hooks, the process's own neither: they run anyway
        finally:
            self._frames.pop()
        frame.require_success()
        kept = self._attributes.kept(frame)
        recording = frame.finish(signature, spec, [origin_of(concrete(leaf)) for leaf in leaves], result, kept)
        recording.state = self._attributes.state(frame)
        outer = {id(i): leaf for i, leaf in zip(inner, leaves, strict=True)}
        return recording, handed_back(result, outer, self._frames[-1] if self._frames else None)

    # -- torch functions -------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        frame = self._current()
        return func(*args, **kwargs) if frame is None else self._functions.record(frame, func, args, kwargs)

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
