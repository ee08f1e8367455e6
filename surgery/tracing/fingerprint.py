"""Recognises calls that are bound to give the same recording, so that identical blocks are recorded once."""

from __future__ import annotations

from collections.abc import Hashable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

from surgery.recording.skeleton import BOOKKEEPING
from surgery.recording.state import PLAIN
from surgery.tracing.sizes import Number
from surgery.tracing.stand_ins import Followed


class Unique(Exception):
    """Something has no comparable description; what holds it is recorded on its own."""


def call_key(module: nn.Module, leaves: list[Any], spec: Any, cache: dict[int, Any]) -> Hashable | None:
    """A key that two calls share only if they record the same graph, or None if that cannot be told.

    Args:
        module: the module called.
        leaves, spec: its flattened arguments.
        cache: fingerprints of modules by id, filled as they are computed.
    """
    try:
        first: dict[int, int] = {}
        inputs = tuple((first.setdefault(id(leaf), i), _value(leaf)) for i, leaf in enumerate(leaves))
        return (_module(module, cache), str(spec), inputs)
    except Unique:
        return None


def _module(module: nn.Module, cache: dict[int, Any]) -> Hashable:
    if id(module) not in cache:
        try:
            cache[id(module)] = _describe(module, cache)
        except Unique:
            cache[id(module)] = None
    if cache[id(module)] is None:
        raise Unique
    found: Hashable = cache[id(module)]
    return found


def _describe(module: nn.Module, cache: dict[int, Any]) -> Hashable:
    own = {k: v for k, v in vars(module).items() if k not in BOOKKEEPING}
    parts: dict[str, Any] = {**module._parameters, **module._buffers, **own}
    return (
        type(module),
        tuple((name, _value(value)) for name, value in sorted(parts.items())),
        tuple((name, child and _module(child, cache)) for name, child in module._modules.items()),
    )


def _value(value: Any, depth: int = 4) -> Hashable:
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), value.stride(), value.dtype, value.requires_grad)
    if isinstance(value, Number):
        return ("number", value.value)
    if isinstance(value, BlockMask):
        return ("block mask", value.seq_lengths, value.BLOCK_SIZE)
    if isinstance(value, PLAIN):
        return (type(value), value)
    if depth == 0 or isinstance(value, nn.Module | MethodType | Followed):
        raise Unique
    if isinstance(value, list | tuple):
        return (type(value), tuple(_value(item, depth - 1) for item in value))
    if isinstance(value, set | frozenset):
        return (type(value), tuple(sorted(map(repr, value))))
    if isinstance(value, dict):
        return (type(value), tuple((k, _value(v, depth - 1)) for k, v in value.items()))
    if hasattr(value, "__dict__"):
        return (type(value), _value(vars(value), depth - 1))
    raise Unique
