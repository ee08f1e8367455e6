"""Modules whose forward is generated from the recordings of their scope."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from surgery.errors import GuardError
from surgery.graph.guard import GuardFailed
from surgery.graph.scope import Recording, Scope, bind, forward_signature, is_input, signature_of

Extend = Callable[[nn.Module, Scope, tuple[Any, ...], dict[str, Any]], None]
MAX_RECORDINGS = 64


def compile_recording(recording: Recording, path: str) -> Callable[..., list[Any]]:
    """The recording's graph as a function of the module and the graph's inputs, giving the flat list of outputs."""
    code = recording.graph.python_code("self")
    name = f"<surgery {path or 'model'} {id(recording):x}>"
    linecache.cache[name] = (len(code.src), None, code.src.splitlines(keepends=True), name)
    namespace = dict(code.globals)
    exec(compile(code.src, name, "exec"), namespace)
    forward: Callable[..., list[Any]] = namespace["forward"]
    return forward


def generated_class(base: type[nn.Module], scope: Scope, extend: Extend) -> type[nn.Module]:
    """A subclass of `base` under the same name whose `forward` runs the recordings of `scope`.

    Args:
        base: the module's own class.
        scope: its scope.
        extend: called when no recording covers the inputs; adds one, or raises GuardError.
    """
    compiled: dict[int, Callable[..., list[Any]]] = {}

    def run(module: nn.Module, recording: Recording, leaves: list[Any]) -> Any:
        if id(recording) not in compiled:
            compiled[id(recording)] = compile_recording(recording, scope.path)
        inputs = filter(is_input, leaves)
        return pytree.tree_unflatten(compiled[id(recording)](module, *inputs), recording.out_spec)

    def attempt(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, Any]:
        leaves, spec = pytree.tree_flatten(bind(base, args, kwargs))
        signature = signature_of(module, leaves, spec)
        failure = None
        for recording in scope.recordings:
            if recording.signature == signature:
                try:
                    return True, run(module, recording, leaves)
                except GuardFailed as failed:
                    failure = failed
        return False, failure

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        covered, result = attempt(self, args, kwargs)
        if not covered:
            _extend(extend, self, scope, args, kwargs, result)
            covered, result = attempt(self, args, kwargs)
        if not covered:
            raise GuardError(f"{scope.name}: {result or 'no recording covers these inputs'}")
        return result

    body = {"forward": forward, "_surgery_base": base, "_surgery_scope": scope}
    if not scope.path:
        body["forward"] = _explained(forward, base, scope)
    return type(base.__name__, (base,), {**body, "__module__": base.__module__, "__doc__": base.__doc__})


def _extend(
    extend: Extend, module: nn.Module, scope: Scope, args: Any, kwargs: Any, failure: GuardFailed | None
) -> None:
    why = failure or "no recording covers these inputs"
    if len(scope.recordings) >= MAX_RECORDINGS:
        raise GuardError(f"{scope.name}: {why}, and {MAX_RECORDINGS} other cases are recorded already")
    try:
        extend(module, scope, args, kwargs)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise GuardError(f"{scope.name}: {why}, and the model itself refuses: {reason}") from error


def _explained(forward: Callable[..., Any], base: type[nn.Module], scope: Scope) -> Callable[..., Any]:
    """The root's forward; what fails inside is reported as a GuardError that names the inputs at fault."""

    def explained(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        try:
            return forward(self, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except (GuardError, RuntimeError, ValueError, TypeError, IndexError) as error:
            raise GuardError(f"{_blame(base, scope, args, kwargs)}: {str(error).partition(chr(10))[0]}") from error

    explained.__wrapped__ = forward  # type: ignore[attr-defined]
    explained.__signature__ = forward_signature(base, bound=False)  # type: ignore[attr-defined]
    return explained


def _blame(base: type[nn.Module], scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Which inputs differ from the traced ones, in words."""
    try:
        now = named_leaves(bind(base, args, kwargs))
    except TypeError:
        return "the call does not fit the model's forward"
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
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return repr(value)
