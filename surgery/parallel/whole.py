"""Tensors of which each process holds a part, beside those that are whole in all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T", bound=Tensor)


def is_divided(tensor: Tensor) -> bool:
    """Whether each process has a part of it only."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, in its memory; of one that is not divided, all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, which all processes ask for at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A tensor that all processes hold, divided as `pattern` is, and on its device."""
    if not isinstance(pattern, DTensor):
        return tensor.to(pattern.device)
    placed = tensor.to(pattern.device)
    return distribute_tensor(placed, pattern.device_mesh, pattern.placements, src_data_rank=None)


def alike(tensors: Iterable[T]) -> list[list[T]]:
    """Those that are divided, and those that are whole: PyTorch's functions of many tensors do not take both."""
    groups: dict[bool, list[T]] = {}
    for tensor in tensors:
        groups.setdefault(is_divided(tensor), []).append(tensor)
    return [*groups.values()]


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The root of the sum of the squares of all elements, a scalar."""
    norms = [whole(nn.utils.get_total_norm(group)) for group in alike(tensors)]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
