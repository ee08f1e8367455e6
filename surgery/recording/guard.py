"""The checks that generated code runs. They stand in the graph as ordinary `call_function` nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

from surgery.recording.objects import is_object


class GuardFailed(Exception):
    """A recording does not cover the sizes at hand; its scope may hold, or make, another one that does."""


def require(actual: Any, expected: Any, condition: str) -> None:
    """Stop unless `actual` is what it was when the graph was recorded.

    Args:
        actual: the value now.
        expected: the value at recording.
        condition: how the value is computed, for the message, e.g. `hidden_states.shape[1] == 64`.
    """
    if actual != expected:
        raise GuardFailed(f"{condition} was {expected!r} when traced and is {actual!r} now")


def layout(value: Any) -> Any:
    """The containers in `value` and what stands in them: constants as they are, tensors by rank, numbers by kind."""
    if isinstance(value, tuple | list):
        return (type(value).__name__, *map(layout, value))
    if isinstance(value, dict):
        return (type(value).__name__, *((key, layout(item)) for key, item in value.items()))
    if isinstance(value, torch.Tensor):
        return f"{value.dim()}-d tensor"
    if isinstance(value, BlockMask):
        return "block mask"
    if is_object(value):
        return type(value).__name__
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else value
