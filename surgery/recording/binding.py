"""Binding the arguments of a call to the parameters of a module's forward, and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from surgery.recording.weak_cache import weakly_cached

Function = Callable[..., Any]


@weakly_cached
def _signature(forward: Function) -> inspect.Signature:
    """Kept for each forward, as `inspect.signature` is slow."""
    signature = inspect.signature(forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def forward_signature(module_class: type[torch.nn.Module]) -> inspect.Signature:
    """The signature of `module_class.forward`, without `self`."""
    return _signature(module_class.forward)


class _Default:
    """Stands for the default of a parameter in a signature that is printed as code."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"defaults[{self.name!r}]"


def binder(module_class: type[torch.nn.Module]) -> Callable[..., dict[str, Any]]:
    """A function with the parameters of `module_class.forward` that gives its arguments by name, in their order.

    It is compiled, as `inspect.Signature.bind` is slow and torch.compile does not follow it.
    """
    return _binder(module_class.forward)


@weakly_cached
def _binder(forward: Function) -> Callable[..., dict[str, Any]]:
    """Compiles what `binder` gives, once for each forward."""
    parameters = _signature(forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    shown = {name: _Default(name) for name in defaults}
    bare = [p.replace(annotation=p.empty, default=shown.get(p.name, p.empty)) for p in parameters]
    names = ", ".join(f"{p.name!r}: {p.name}" for p in parameters)
    namespace: dict[str, Any] = {"defaults": defaults}
    exec(f"def forward{inspect.Signature(bare)}: return {{{names}}}", namespace)
    bind: Callable[..., dict[str, Any]] = namespace["forward"]
    return bind


def named(module_class: type[torch.nn.Module], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name; those of `*args` by position, "1", and those of `**kwargs` by keyword."""
    bound, found = binder(module_class)(*args, **kwargs), dict[str, Any]()
    for position, (name, p) in enumerate(forward_signature(module_class).parameters.items()):
        if p.kind is p.VAR_POSITIONAL:
            found |= {str(number): value for number, value in enumerate(bound[name], position)}
        else:
            found |= bound[name] if p.kind is p.VAR_KEYWORD else {name: bound[name]}
    return found


def call_of(
    module_class: type[torch.nn.Module], arguments: Mapping[str, Any], positional: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inverse of `named`, for a call with `positional` positional arguments."""
    bound, rest = dict[str, Any](), dict(arguments)
    for name, p in forward_signature(module_class).parameters.items():
        if p.kind is p.VAR_POSITIONAL:
            bound[name] = [rest.pop(number) for number in list(rest) if number.isdigit()]
        else:
            bound[name] = rest if p.kind is p.VAR_KEYWORD else rest.pop(name)
    return unbind(module_class, bound, positional)


def unbind(
    module_class: type[torch.nn.Module], arguments: dict[str, Any], positional: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inverse of binding, for a call with `positional` positional arguments."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for index, (name, p) in enumerate(forward_signature(module_class).parameters.items()):
        if p.kind is p.VAR_POSITIONAL:
            args += arguments[name]
        elif p.kind is p.VAR_KEYWORD:
            kwargs |= arguments[name]
        elif p.kind is p.POSITIONAL_ONLY or (index < positional and p.kind is not p.KEYWORD_ONLY):
            args.append(arguments[name])
        else:
            kwargs[name] = arguments[name]
    return tuple(args), kwargs
