"""What a recording assumes of its module besides the inputs: the attributes that the forward read.

An attribute is told by a description that stays the same on another device and in a copy: the value of a constant, the
shape and dtype of a tensor, the class of a module, and the contents of a container or a plain object.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

Description = Any
State = tuple[tuple[tuple[str, ...], str, Description], ...]  # path below the module, attribute, description

PLAIN = (bool, int, float, str, bytes, complex, type(None), type, torch.dtype, torch.device, FunctionType,
         BuiltinFunctionType, type(Ellipsis))  # fmt: skip
MISSING = ("missing",)


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class of `module`, or the one that its generated class stands for."""
    return getattr(type(module), "_surgery_base", type(module))


def describe(value: Any, depth: int = 4) -> Description:
    """`value` by what it is; a thing without attributes, and what lies deeper than `depth`, by its class."""
    if isinstance(value, PLAIN):
        return (type(value), value)
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), value.dtype)
    if isinstance(value, BlockMask):
        return ("block mask", value.seq_lengths, value.BLOCK_SIZE)
    if isinstance(value, nn.Module):
        return ("module", own_class(value))
    if depth and isinstance(value, list | tuple):
        return (type(value), [describe(item, depth - 1) for item in value])
    if depth and isinstance(value, dict):
        return (type(value), [(key, describe(item, depth - 1)) for key, item in value.items()])
    if isinstance(value, set | frozenset):
        return (type(value), set(value))
    if depth and hasattr(value, "__dict__"):
        return (type(value), describe(vars(value), depth - 1))
    return (type(value),)


def changed(module: nn.Module, state: State) -> str | None:
    """The first attribute of or below `module` that is not as in `state`, by its path; None if all are."""
    for path, name, description in state:
        if _describe_at(module, path, name) != description:
            return ".".join((*path, name))
    return None


def _describe_at(module: nn.Module, path: tuple[str, ...], name: str) -> Description:
    for part in path:
        if part not in module._modules:
            return MISSING
        module = module._modules[part]  # type: ignore[assignment]
    return describe(getattr(module, name)) if hasattr(module, name) else MISSING
