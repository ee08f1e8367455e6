"""Modules whose forward is generated from the recordings of their scope."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from surgery.errors import GuardError, RewriteError, first_line
from surgery.recording.autocast import AutocastState, autocast_state
from surgery.recording.binding import binder
from surgery.recording.caches import guarded_caches, require_no_shared_cache
from surgery.recording.checkpointing import Checkpointing
from surgery.recording.guard import GuardFailed
from surgery.recording.one_thread import one_thread
from surgery.recording.paths import below
from surgery.recording.recording import Recording, Scope
from surgery.recording.signature import is_input, signature_of
from surgery.recording.snapshot import Snapshot
from surgery.recording.state import changed, own_class
from surgery.recording.torch_private import pytree

MAX_RECORDINGS = 64
"""Of one module; more would mean that it is recorded at nearly every call, which is an error and not a slow success."""

NOT_RECORDED = (
    "an edited module records the first call of a kind; call it once before it is compiled with fullgraph=True"
)


class RecordCall(Protocol):
    """Records a call of a module: `surgery.tracing.tracer.record`, which stands above this folder."""

    def __call__(
        self,
        module: nn.Module,
        scopes: dict[str, Scope],
        path: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        alone: bool = False,
    ) -> None:
        """Add what is new to `scopes`."""


@dataclass
class Trace:
    """What a module with a generated forward carries: its scope, and how to record it again."""

    scope: Scope
    record: RecordCall

    def __deepcopy__(self, memo: Any) -> Trace:
        """Copies of a module share its recordings, which say themselves when they apply."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """No recordings: they rest on the user's code, which may be other code where the pickle is read."""
        return {**vars(self), "scope": replace(self.scope, recordings=[])}

    def extend(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record `module` on inputs, or with attributes, that no recording of its scope covers."""
        carried = [t.scope for t in map(trace_of, module.modules()) if t is not None]
        scopes = {inner.path: inner for inner in carried}
        found: dict[str, Scope] = {}
        self.record(module, found, self.scope.path, args, kwargs)
        for path, new in found.items():
            known = scopes.setdefault(path, Scope(path, new.module_class, params=new.params))
            for recording in new.recordings:
                recording.compile()  # before other threads see it
                known.add(recording)
        generate(module, scopes, self.scope.path, self.record)


class NotEdited(RewriteError):
    """An edit cannot be made to another way through the forward."""


class EditedTrace(Trace):
    """A trace whose graphs were edited: the module's own class no longer says what it computes."""


def trace_of(module: nn.Module) -> Trace | None:
    """What `module` carries if its forward is generated."""
    return vars(module).get("_surgery")


def edit_of(module: nn.Module) -> EditedTrace | None:
    """What `module` carries if its graph was edited."""
    return vars(module).get("_surgery_edit")


def set_edit(module: nn.Module, edit: EditedTrace | None) -> None:
    """Let the forward of `module` be that of the edited graphs; None gives it its own forward back."""
    if edit is None:
        vars(module).pop("_surgery_edit", None)
    else:
        for recording in edit.scope.recordings:
            recording.compile()
        object.__setattr__(module, "_surgery_edit", edit)
    module.__class__ = own_class(module) if edit is None else generated_class(own_class(module))


def generate(module: nn.Module, scopes: Mapping[str, Scope], path: str, record: RecordCall) -> None:
    """Let every module at and below `module`, which stands at `path`, run the recordings of its scope."""
    for name, child in module.named_modules():
        scope = scopes.get(below(path, name))
        if scope is None:
            continue
        for recording in scope.recordings:
            recording.compile()
        if trace_of(child) is None:
            child.__class__ = generated_class(own_class(child))
            object.__setattr__(child, "_surgery", Trace(scope, record))


def forget(module: nn.Module) -> None:
    """Give `module` its own class and forward back, or those of its edited graph."""
    vars(module).pop("_surgery", None)
    if edit_of(module) is None:
        module.__class__ = own_class(module)


def generated_class(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass of `base` under the same name whose `forward` runs the recordings that the module carries."""
    with one_thread():
        known = (cls for cls in base.__subclasses__() if vars(cls).get("_surgery_base") is base)
        return next(known, None) or _generate_class(base)


def _generate_class(base: type[nn.Module]) -> type[nn.Module]:
    """See `generated_class`."""
    own_forward = base.forward  # torch.compile follows a function, but not every class, to its forward

    @functools.wraps(own_forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        trace: Trace | None = self._surgery
        # A graph has no place for the recomputation of its calls, and the outcome is the same: its own code does it.
        if trace is None or getattr(self, "gradient_checkpointing", False):
            return own(self, *args, **kwargs)
        return (run if trace.scope.path else run_root)(self, trace, args, kwargs)

    def own(self: Any, *args: Any, **kwargs: Any) -> Any:
        edit: EditedTrace | None = self._surgery_edit
        if edit is None:
            return own_forward(self, *args, **kwargs)
        return (run if edit.scope.path else run_root)(self, edit, args, kwargs)

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        return (_blank, (base,), *base.__reduce_ex__(self, protocol)[2:])

    body: dict[str, Any] = {"forward": forward, "__reduce_ex__": reduce, **guarded_caches(base)}
    body |= {"_surgery": None, "_surgery_edit": None, "_surgery_base": base, "_surgery_own_forward": own}
    body["_surgery_bind"] = staticmethod(binder(base))
    # Compiled code is left to record a call, and goes on afterwards.
    body["_surgery_extend"] = staticmethod(torch.compiler.disable(_record, reason=NOT_RECORDED))  # type: ignore[no-untyped-call]
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), body | names)


def _blank(base: type[nn.Module]) -> nn.Module:
    """An empty instance of the generated class, for unpickling."""
    made = generated_class(base)
    return made.__new__(made)


def run(module: Any, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The forward of `module`, from a recording that covers the call; one is made if there is none.

    Raises:
        GuardError: the module itself does not accept the inputs.
    """
    covered, result = _attempt(module, trace, args, kwargs)
    # Autocast casts no meta tensors, so what it does to a forward cannot be recorded on the meta device.
    is_own = not isinstance(trace, EditedTrace)
    if not covered and is_own and (torch.compiler.is_compiling() or autocast_state()):
        return module._surgery_own_forward(*args, **kwargs)
    if not covered:
        _extend(module, trace, args, kwargs, result)
        covered, result = _attempt(module, trace, args, kwargs)
    if not covered:
        raise GuardError(f"{trace.scope.name}: {result}")
    return result


def _attempt(module: Any, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
    """Whether a recording covers the call, and its result or, if none does, why not."""
    base = own_class(module)
    arguments = module._surgery_bind(*args, **kwargs)
    leaves, spec = pytree.tree_flatten(arguments)
    # An edited graph has no other code to fall back to: it runs under autocast too, and its guards tell dtypes.
    signature = signature_of(base, leaves, spec, () if isinstance(trace, EditedTrace) else autocast_state())
    failure = "no recording covers these inputs"
    for recording in trace.scope.recordings:
        if recording.signature != signature:
            continue
        change = changed(module, recording.state)
        if change is not None:
            failure = f"{change} is not what it was when the forward was recorded"
            continue
        inputs = list(filter(is_input, leaves))
        before = Snapshot(module, inputs) if recording.has_late_guards and not _is_recorded(inputs) else None
        try:
            result = _outputs(recording, module, inputs)
        except GuardFailed as failed:
            failure = str(failed)
            if before is not None:
                before.restore()
        else:
            return True, recording.result(result, arguments, module)
    return False, failure


def _is_recorded(inputs: list[Any]) -> bool:
    """Whether this call is itself being recorded or compiled, so that there is nothing to put back."""
    return torch.compiler.is_compiling() or any(isinstance(i, torch.Tensor) and i.is_meta for i in inputs)


def _outputs(recording: Recording, module: nn.Module, inputs: list[Any]) -> list[Any]:
    """What the graph gives; no autocast region of it stays open if it ends by an error."""
    is_edited = edit_of(module) is not None
    if is_edited:
        require_no_shared_cache(module, recording.blocks)
    if is_edited and getattr(module, "gradient_checkpointing", False) and torch.is_grad_enabled():
        outputs: list[Any] = Checkpointing(module, recording).run(*inputs)
        return outputs
    if not recording.has_autocast or torch.compiler.is_compiling():
        return recording.function(module, *inputs)
    before = AutocastState()
    try:
        return recording.function(module, *inputs)
    except BaseException:
        before.restore()
        raise


def _extend(module: nn.Module, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], why: str) -> None:
    """Record `module` on inputs, or with attributes, that no recording of its scope covers."""
    scope = trace.scope
    if len(scope.recordings) >= MAX_RECORDINGS:
        raise GuardError(f"{scope.name}: {why}, and {MAX_RECORDINGS} other cases are recorded already")
    try:
        type(module)._surgery_extend(trace, module, args, kwargs)  # type: ignore[attr-defined]
    except Exception as error:
        who = "the edit is not for" if isinstance(error, NotEdited) else "the model itself refuses"
        raise GuardError(f"{scope.name}: {why}, and {who} these inputs: {first_line(error)}") from error


def _record(trace: Trace, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A function, as `torch.compiler.disable` takes no method of each trace."""
    with one_thread():
        trace.extend(module, args, kwargs)


def run_root(module: nn.Module, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `run`; what fails inside is reported as a GuardError that names the inputs at fault."""
    try:
        return run(module, trace, args, kwargs)
    except torch.OutOfMemoryError:
        raise
    except (GuardError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError) as error:
        fault = _blame(own_class(module), trace.scope, args, kwargs)
        raise GuardError(f"{fault}: {first_line(error)}") from error


def _blame(base: type[nn.Module], scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Which inputs differ from the traced ones, in words."""
    try:
        now = named_leaves(binder(base)(*args, **kwargs))
    except TypeError:
        return "the call does not fit the model's forward"
    if not scope.recordings:
        return "the first call"
    recording = scope.recordings[0]
    then = named_leaves(pytree.tree_unflatten(recording.in_leaves, recording.in_spec))
    words = [
        f"{name} is {_shown(value)}, traced with {_shown(then.get(name))}"
        for name, value in now.items()
        if _shown(value) != _shown(then.get(name))
    ]
    return "; ".join(words) or "inputs of the traced sizes"


def named_leaves(arguments: dict[str, Any]) -> dict[str, Any]:
    """The leaves of a call's arguments by a readable name, e.g. `added_cond_kwargs['resolution']`."""
    leaves, _ = pytree.tree_flatten_with_path(arguments)
    return {pytree.keystr(path)[2:].replace("']", "", 1): leaf for path, leaf in leaves}


def _shown(value: Any) -> str:
    """A leaf in the words of a message: tensors by shape and dtype."""
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return repr(value)
