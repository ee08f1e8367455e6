"""The checks that generated code runs. They stand in the graph as ordinary `call_function` nodes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

from surgery.recording.describe import Describer, Description
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


class _LayoutDescriber(Describer):
    """Containers by the name of their class, tensors by rank, numbers as such: what does not vary with sizes."""

    deepest = math.inf

    def kind(self, cls: type) -> Description:
        return cls.__name__

    def tensor(self, tensor: torch.Tensor) -> Description:
        return f"{tensor.dim()}-d tensor"

    def block_mask(self, mask: BlockMask) -> Description:  # noqa: ARG002
        return "block mask"

    def number(self, number: Any) -> Description:  # noqa: ARG002
        return "number"

    def constant(self, value: Any) -> Description:
        return value

    def other(self, value: Any, depth: int) -> Description:  # noqa: ARG002
        """An object by its class, as reads of its attributes are guarded themselves; all else is a constant."""
        return type(value).__name__ if is_object(value) or isinstance(value, torch.nn.Module) else value


_LAYOUTS = _LayoutDescriber()


def layout(value: Any) -> Description:
    """The containers in `value` and what stands in them: constants as they are, tensors by rank, numbers by kind."""
    return _LAYOUTS.describe(value)


def device_seen(value: torch.Tensor | torch.device, traced: str) -> str:
    """The device of a tensor, or a device, for a guard; on the meta device any recording holds."""
    device = value.device if isinstance(value, torch.Tensor) else value
    return traced if device.type == "meta" else str(device)
