"""Which of a module's parameters tell its device and dtype."""

from __future__ import annotations

from torch import nn


def first_floating(module: nn.Module) -> nn.Parameter | None:
    """The first floating-point parameter of `module`, from which others take device and dtype; None if it has none."""
    return next((p for p in module.parameters() if p.is_floating_point()), None)
