"""A nested value as a skeleton of plain JSON and the tensors that belong into it.

In a skeleton None, bool, int, float and str stand for themselves. Anything else is a dict with one key, its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surgery.errors import ArtifactError

PLAIN = (type(None), bool, int, float, str)
SEQUENCES: dict[str, type[list[Any]] | type[tuple[Any, ...]]] = {"list": list, "tuple": tuple}


def take_apart(value: Any, put: Callable[[Tensor], int], path: str) -> Any:
    """The skeleton of `value`.

    Args:
        value: dicts with text for keys, lists, tuples, tensors, dtypes, devices and plain data.
        put: is given each tensor, in order; the number that it returns stands in the skeleton.
        path: what to call `value` in an error.

    Raises:
        ArtifactError: it holds anything else, or a class of its own derived from one of these.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, Tensor):
        return {"tensor": put(value)}
    if kind in (torch.dtype, torch.device):
        return {kind.__name__: str(value).removeprefix("torch.")}
    if kind in SEQUENCES.values():
        return {kind.__name__: [take_apart(item, put, f"{path}.{i}") for i, item in enumerate(value)]}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: take_apart(item, put, f"{path}.{key}") for key, item in value.items()}}
    what = "dict with keys that are no text" if kind is dict else kind.__name__
    raise ArtifactError(f"{path} is a {what}, which a store cannot hold: make it tensors and plain data")


def put_together(skeleton: Any, get: Callable[[int], Tensor]) -> Any:
    """The value that `take_apart` was given; `get` gives the tensor of a number."""
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, inside),) = skeleton.items()
    if kind == "tensor":
        return get(inside)
    if kind in SEQUENCES:
        return SEQUENCES[kind](put_together(item, get) for item in inside)
    if kind == "dict":
        return {key: put_together(item, get) for key, item in inside.items()}
    return torch.device(inside) if kind == "device" else getattr(torch, inside)
