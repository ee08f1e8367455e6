"""Reads of a tensor's values: they become nodes, and what the model does with them is followed like a size.

A number that is read (`lengths.max().item()`) may be used as a size; a branch on it becomes a guard. Integers and masks
steer a forward as sizes do, and repeat from call to call. Floating-point data do not: a branch on them is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from surgery.errors import TraceError
from surgery.tracing.frame import Frame
from surgery.tracing.known_values import KnownValues, unknown


def read(frame: Frame, values: KnownValues | None, name: str, tensor: torch.Tensor) -> Any:
    """What the method `name` of `tensor`, one of `READERS`, gives to the model while it is recorded.

    Raises:
        TraceError: the values are not known, or are floating-point data that decide between branches.
    """
    real = values.of(tensor) if values else None
    if values is not None and real is None and not frame.is_kept:
        real = values.guess(tensor)
    if values is None or real is None:
        raise unknown(f"Tensor.{name}")
    if name == "__bool__" and (real.is_floating_point() or values.compares_floats(tensor)):
        raise TraceError(
            "a branch depends on floating-point values of a tensor (Tensor.__bool__), so no graph holds for others; "
            "write it with torch.where, or declare the module that does it a leaf"
        )
    return READERS[name](frame, tensor, real)


def _item(frame: Frame, tensor: torch.Tensor, real: torch.Tensor) -> Any:
    return frame.read(_method(frame, tensor, "item"), real.item())


def _bool(frame: Frame, tensor: torch.Tensor, real: torch.Tensor) -> bool:
    return bool(_item(frame, tensor, real))


def _int(frame: Frame, tensor: torch.Tensor, real: torch.Tensor) -> int:
    return int(_item(frame, tensor, real))


def _float(frame: Frame, tensor: torch.Tensor, real: torch.Tensor) -> float:
    return float(_item(frame, tensor, real))


def _tolist(frame: Frame, tensor: torch.Tensor, real: torch.Tensor) -> Any:
    for dim in range(tensor.dim()):
        int(frame.size(tensor, dim))  # a list has a length of its own: guard it
    node, values = _method(frame, tensor, "tolist"), real.tolist()
    if real.dtype == torch.bool:
        frame.require(node, values, node.meta["text"])
        return values
    return frame.read(node, values)


def _numpy(frame: Frame, tensor: torch.Tensor, real: torch.Tensor) -> Any:
    """An array of objects, so that numpy's arithmetic on tracked numbers is followed too."""
    array = np.empty(tuple(real.shape), dtype=bool if real.dtype == torch.bool else object)
    array[...] = _tolist(frame, tensor, real)
    return array


def _method(frame: Frame, tensor: torch.Tensor, name: str) -> fx.Node:
    """The node of a read, with the note whether it tells floating-point data."""
    source = frame.node_of(tensor)
    node = frame.graph.call_method(name, (source,))
    node.meta["text"] = f"{source.meta['text']}.{name}()"
    node.meta["floats"] = tensor.is_floating_point()
    return node


READERS: dict[str, Callable[[Frame, torch.Tensor, torch.Tensor], Any]] = {
    "item": _item,
    "tolist": _tolist,
    "numpy": _numpy,
    "__array__": _numpy,
    "__bool__": _bool,
    "__int__": _int,
    "__index__": _int,
    "__float__": _float,
}
