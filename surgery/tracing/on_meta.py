"""Runs a recorded torch call on the meta device, whatever device the model's code asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from surgery.recording.torch_private import device_constructors, pytree

META = torch.device("meta")
MOVES = {"cpu", "cuda", "mps", "xpu"}


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`func(*args, **kwargs)` with every device replaced by meta."""
    name = getattr(func, "__name__", "")
    if name in MOVES and args and isinstance(args[0], torch.Tensor):
        return args[0].to(META)
    if func in device_constructors() and kwargs.get("device") is None:
        kwargs = {**kwargs, "device": META}
    args, kwargs = pytree.tree_map(_on_meta, (args, kwargs))
    if "device" in kwargs and kwargs["device"] is not None:
        kwargs["device"] = META
    if name == "to" and len(args) > 1 and isinstance(args[1], str):
        args = (args[0], META, *args[2:])
    return func(*args, **kwargs)


class StayOnMeta(TorchFunctionMode):
    """Every call inside is made so."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_meta(func, args, kwargs or {})


def _on_meta(value: Any) -> Any:
    return META if isinstance(value, torch.device) else value
