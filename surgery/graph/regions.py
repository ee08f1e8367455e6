"""Regions of a forward that run under autocast, opened and closed by nodes of the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast


def enter_autocast(device_type: str, dtype: torch.dtype | None, enabled: bool, cache_enabled: bool | None) -> Any:
    """Open a region, as `torch.autocast` with these arguments does; the result closes it."""
    return _enter_autocast(device_type, dtype, enabled, cache_enabled)  # type: ignore[no-untyped-call]


def exit_autocast(region: Any) -> None:
    """Close a region."""
    _exit_autocast(region)  # type: ignore[no-untyped-call]
