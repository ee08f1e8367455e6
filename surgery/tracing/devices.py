"""Where the user's tensors are, whose stand-ins are all on the meta device: a forward may branch on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from operator import getitem
from typing import Any

import torch
from torch import nn

from surgery.recording.paths import names_of, relative
from surgery.recording.skeleton import Attribute, Owned
from surgery.tracing.on_meta import META

OF_TYPE = {f"is_{kind}": kind for kind in ("cpu", "cuda", "mps", "xpu", "meta")}
"""Attributes of a tensor that tell the type of its device."""


_outer: ContextVar[torch.device | None] = ContextVar("outer", default=None)


@contextmanager
def standing_for(device: torch.device) -> Iterator[None]:
    """While open, what is recorded of meta tensors alone is so for tensors on `device`: they are stand-ins already."""
    token = _outer.set(device)
    try:
        yield
    finally:
        _outer.reset(token)


class Devices:
    """The devices of one recording.

    Args:
        real: the module that is recorded, which stands at `root`.
        inputs: pairs of a meta tensor and the real tensor that the caller gave.

    Attributes:
        main: that of the inputs, or of the weights; without any tensor the default one. Graphs ask for it at run time
            wherever this object is used.
    """

    def __init__(self, real: nn.Module, root: str, inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._real, self._root = real, root
        self._inputs = {id(meta): tensor.device for meta, tensor in inputs}
        weights = [tensor.device for tensor in (*real.parameters(), *real.buffers())]
        there = [*self._inputs.values(), *weights]
        known = next((device for device in there if device.type != "meta"), None)
        self.main = known or _outer.get() or (META if there else torch.get_default_device())

    def of(self, tensor: torch.Tensor, owned: Owned | None) -> torch.device:
        """Where the real tensor is that `tensor` stands for; `owned` says what it is if it is the model's own."""
        device = self._owned(owned) if owned is not None else self._inputs.get(id(tensor), self.main)
        return (
            self.main if device.type == "meta" or device == self.main else device
        )  # offloaded weights come when called

    def _owned(self, owned: Owned) -> torch.device:
        """The device of a tensor of the real module; it may be deep in an attribute."""
        *path, name = names_of(relative(owned.path, self._root))
        value: Any = getattr(self._real.get_submodule(".".join(path)), name)
        found = reduce(_item, owned.keys, value)
        return found.device if isinstance(found, torch.Tensor) else self.main


def _item(value: Any, key: Any) -> Any:
    return getattr(value, key) if isinstance(key, Attribute) else getitem(value, key)
