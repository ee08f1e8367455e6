"""Copies of models whose weights are others, or the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model, new: Callable[[Tensor], Tensor]) -> Model:
    """A deep copy of `model` whose parameters and buffers hold `new(tensor)` in the place of each tensor.

    What is one parameter in the model is one in the copy; its parameters are always others than the model's, but may hold
    the same memory.
    """
    memo: dict[int, Tensor] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(new(parameter.data), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = new(buffer)
    return copy.deepcopy(model, memo)
