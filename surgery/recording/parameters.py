"""Which of a module's parameters tell its device and dtype."""

from __future__ import annotations

import torch
from torch import nn


def first_floating(module: nn.Module) -> nn.Parameter | None:
    """The first floating-point parameter of `module`, from which others take device and dtype; None if it has none."""
    return next((p for p in module.parameters() if p.is_floating_point()), None)


def dtype_of(module: nn.Module) -> torch.dtype | None:
    """That of its first floating-point parameter; None if it has none."""
    first = first_floating(module)
    return None if first is None else first.dtype
