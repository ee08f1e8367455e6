"""Recognises calls that are bound to give the same recording, so that identical blocks are recorded once."""

from __future__ import annotations

from collections.abc import Hashable
from types import MethodType
from typing import Any

import torch
from torch import nn

from surgery.recording.describe import Describer, Description, has_attributes
from surgery.recording.objects import Followed
from surgery.recording.signature import identities
from surgery.recording.skeleton import BOOKKEEPING
from surgery.tracing.sizes import Number


class Unique(Exception):
    """Something has no comparable description; what holds it is recorded on its own."""


class _ExactDescriber(Describer):
    """All that a recording may depend on, so strides as well; what cannot be told raises Unique."""

    def tensor(self, tensor: torch.Tensor) -> Description:
        return (*super().tensor(tensor), tensor.stride(), tensor.requires_grad)

    def number(self, number: Any) -> Description:
        if isinstance(number, Number):
            return ("number", number.value)
        if isinstance(number, torch.SymInt | torch.SymFloat):
            raise Unique
        return self.constant(number)

    def other(self, value: Any, depth: int) -> Description:
        """An object by its attributes."""
        if isinstance(value, nn.Module | MethodType | Followed) or depth >= self.deepest or not has_attributes(value):
            raise Unique
        return self.attributes(value, depth)


_exact = _ExactDescriber().describe


def call_key(module: nn.Module, leaves: list[Any], spec: Any, cache: dict[int, Any]) -> Hashable | None:
    """A key that two calls share only if they record the same graph, or None if that cannot be told.

    Args:
        module: the module called.
        leaves, spec: its flattened arguments.
        cache: fingerprints of modules by id, filled as they are computed.
    """
    try:
        first: dict[int, int] = {}
        inputs = tuple(id(leaf) if isinstance(leaf, nn.Module) else _exact(leaf) for leaf in leaves)
        same = tuple(first.setdefault(id(part), i) for i, part in enumerate(identities(leaves)))
        return (_module(module, cache), str(spec), inputs, same)
    except Unique:
        return None


def _module(module: nn.Module, cache: dict[int, Any]) -> Hashable:
    """The fingerprint of a module, or Unique."""
    if id(module) not in cache:
        try:
            cache[id(module)] = _module_parts(module, cache)
        except Unique:
            cache[id(module)] = None
    if cache[id(module)] is None:
        raise Unique
    found: Hashable = cache[id(module)]
    return found


def _module_parts(module: nn.Module, cache: dict[int, Any]) -> Hashable:
    """All that a forward of `module` may read."""
    own = {k: v for k, v in vars(module).items() if k not in BOOKKEEPING}
    parts: dict[str, Any] = {**module._parameters, **module._buffers, **own}
    return (
        type(module),
        tuple((name, _exact(value)) for name, value in sorted(parts.items())),
        tuple((name, child and _module(child, cache)) for name, child in module._modules.items()),
    )
