"""Regions of a forward that run under autocast, opened and closed by nodes of the graph."""

from __future__ import annotations

from typing import Any

import torch

from surgery.recording.torch_private import enter_autocast_region, exit_autocast_region

DEVICES = ("cpu", "cuda")


def enter_autocast(device_type: str, dtype: torch.dtype | None, enabled: bool, cache_enabled: bool | None) -> Any:
    """Open a region, as `torch.autocast` with these arguments does; the result closes it."""
    return enter_autocast_region(device_type, dtype, enabled, cache_enabled)  # type: ignore[no-untyped-call]


def exit_autocast(region: Any) -> None:
    """Close a region."""
    exit_autocast_region(region)  # type: ignore[no-untyped-call]


def autocast_state() -> tuple[tuple[str, torch.dtype], ...]:
    """To what dtype operations are cast now, by device; dtypes that a recording takes for granted depend on it."""
    return tuple((d, torch.get_autocast_dtype(d)) for d in DEVICES if torch.is_autocast_enabled(d))


class AutocastState:
    """The regions that are open now, to close those that a graph has opened when it ends by an error."""

    def __init__(self) -> None:
        self._state = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in DEVICES]
        self._cache = torch.is_autocast_cache_enabled()
        self._depth = _depth()

    def restore(self) -> None:
        """Close what has been opened since."""
        depth = _depth()
        while depth > self._depth:
            depth = torch.autocast_decrement_nesting()
            if depth == 0:
                torch.clear_autocast_cache()
        for device, enabled, dtype in self._state:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self._cache)


def _depth() -> int:
    """How many regions are open, which PyTorch tells only as it counts one more."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()
