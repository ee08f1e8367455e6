"""What a model is besides its weights, in words that can be saved and compared."""

from __future__ import annotations

from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from surgery.recording.describe import PLAIN
from surgery.recording.hooks import own_forward, own_hooks
from surgery.recording.skeleton import BOOKKEEPING
from surgery.recording.state import own_class

Structure = dict[str, dict[str, str]]
"""For each path of a module, its class under "class" and its attributes."""

IGNORED = {
    "training",
    "gradient_checkpointing",
    "_gradient_checkpointing_func",
    "_internal_dict",
    "save_pretrained",
    "forward",  # told by `_call`
}
DEEPEST = 4
EMPTY = {"None", "{}", "[]", "()"}


def structure_of(model: nn.Module) -> Structure:
    """The classes and attributes of every module of `model`, and the sizes of what it holds."""
    return {path: _facts(module) for path, module in model.named_modules(remove_duplicate=False)}


def differences(expected: nn.Module, given: nn.Module) -> Iterator[str]:
    """What in `given` is not as in `expected`, a line for each, with the path of its module."""
    classes = {path: own_class(module) for path, module in given.named_modules(remove_duplicate=False)}
    for path, module in expected.named_modules(remove_duplicate=False):
        if path in classes and classes[path] is not own_class(module):
            yield f"{path or 'the model'} is of another class {classes[path].__module__}.{classes[path].__qualname__}"
            return
    yield from structural_differences(structure_of(expected), structure_of(given))


def structural_differences(expected: Structure, given: Structure) -> Iterator[str]:
    """As `differences`, of structures; attributes that only one has are let be, they may be of another version."""
    for path in [p for p in given if p not in expected]:
        yield f"{path} ({given[path].get('class')}) is added"
    for path, facts in expected.items():
        found = given.get(path)
        if found is None:
            yield f"{path} ({facts.get('class')}) is missing"
            continue
        for name in [n for n in facts if n in found and not _alike(facts[n], found[n])]:
            yield f"{path or 'the model'}: {name} is {found[name][:80]} and not {facts[name][:80]}"


def _alike(expected: str, found: str) -> bool:
    """Whether two values are the same, or the second one is a cache of tensors that a call has filled."""
    return expected == found or (expected in EMPTY and "tensor of" in found)


def _facts(module: nn.Module) -> dict[str, str]:
    own = {k: v for k, v in vars(module).items() if k not in BOOKKEEPING | IGNORED and not k.startswith("_surgery")}
    held = {k: v for k, v in (module._parameters | module._buffers).items() if v is not None}
    shapes = {name: str(tuple(tensor.shape)) for name, tensor in held.items()}
    words = {name: _words(value) for name, value in own.items()}
    return {"class": own_class(module).__qualname__, "forward": _call(module), **shapes, **words}


def _call(module: nn.Module) -> str:
    """What runs when `module` is called: the forward, and the hooks around it, by name as they may keep what they see."""
    forward, hooks = own_forward(module), list(map(_name, own_hooks(module)))
    name = "that of the class" if forward is None else _name(forward)
    return f"{name}, with hooks {', '.join(hooks)}" if hooks else name


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _words(value: Any, depth: int = DEEPEST) -> str:
    """`value` in words that are the same in another process; of a tensor its sizes, of a module its class."""
    if isinstance(value, torch.Tensor):
        return f"tensor of {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, nn.Module):
        return own_class(value).__qualname__
    if isinstance(value, type | FunctionType | BuiltinFunctionType | MethodType):
        return value.__qualname__
    if isinstance(value, PLAIN):
        return repr(value)
    if depth and isinstance(value, list | tuple):
        return f"({', '.join(_words(item, depth - 1) for item in value)})"
    if depth and isinstance(value, dict):
        return f"{{{', '.join(f'{_words(k)}: {_words(item, depth - 1)}' for k, item in value.items())}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_words, value)))}}}"
    inside = _words(vars(value), depth - 1) if depth and hasattr(value, "__dict__") else ""
    return f"{type(value).__qualname__}{inside}"
