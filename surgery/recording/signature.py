"""Under what a recording is found: the kinds of its inputs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

from surgery.recording.describe import Describer, Description
from surgery.recording.objects import is_object, parts
from surgery.recording.state import own_class
from surgery.recording.surroundings import original
from surgery.recording.torch_private import pytree

Signature = tuple[Any, ...]


def is_input(leaf: Any) -> bool:
    """Whether an argument's leaf is an input of the graph; others are in the signature.

    Inputs are tensors, numbers, devices, block masks of FlexAttention, modules and objects.
    """
    kinds = torch.Tensor | int | float | torch.SymInt | torch.SymFloat | torch.device | BlockMask | torch.nn.Module
    return (isinstance(leaf, kinds) and not isinstance(leaf, bool)) or is_object(leaf)


class _KindDescriber(Describer):
    """Tensors by rank and dtype, numbers and devices by type: their values are inputs of the graph."""

    deepest = 0

    def tensor(self, tensor: torch.Tensor) -> Description:
        return ("tensor", tensor.dtype, tensor.dim())

    def number(self, number: Any) -> Description:
        return ("int",) if isinstance(number, int | torch.SymInt) else ("float",)

    def constant(self, value: Any) -> Description:
        return ("device",) if isinstance(value, torch.device) else super().constant(value)

    def other(self, value: Any, depth: int) -> Description:  # noqa: ARG002
        """An object by the name of its class, which stands for it while it is recorded; a module by it; or a constant."""
        if is_object(value):
            return ("object", type(value).__module__, type(value).__name__)
        if isinstance(value, torch.nn.Module):
            return ("module", own_class(value))
        try:
            hash(value)
        except TypeError:
            return (type(value), "id", id(value))
        return (type(value), value)


_KINDS = _KindDescriber()


def leaf_kind(leaf: Any) -> Hashable:
    """What a recording assumes of one input: rank and dtype of a tensor, the type of a number, the value of all else."""
    kind: Hashable = _KINDS.describe(leaf)
    return kind


def signature_of(
    module_class: type[torch.nn.Module], leaves: list[Any], spec: pytree.TreeSpec, autocast: Hashable
) -> Signature:
    """The key under which a recording is found: the class and its forward, the inputs' kinds, and autocast around it.

    One tensor that is given twice is another kind of input than two: a graph does not tell which of its readers reads
    which.
    """
    forward = original(module_class.forward)
    return ((module_class, forward), autocast, str(spec), *map(leaf_kind, leaves), *_again(leaves))


def _again(leaves: list[Any]) -> list[Hashable]:
    """Which of the tensors and objects among `leaves` are which of those before them.

    It is told by `is`, as `id` binds compiled code to those of one call.
    """
    known = list(enumerate(identities(leaves)))
    firsts = ((next(first for first, other in known if other is part), n) for n, part in known)
    return [pair for pair in firsts if pair[0] != pair[1]]


def identities(leaves: list[Any]) -> Iterator[Any]:
    """The tensors and objects among `leaves`, and those in objects: it matters whether two are the same one."""
    for leaf in leaves:
        inside = parts(leaf) if is_object(leaf) else (leaf,)
        yield from (part for part in inside if isinstance(part, torch.Tensor) or is_object(part))
