"""A nested value as a skeleton of plain JSON and the tensors that belong into it.

In a skeleton None, bool, int, float and str stand for themselves. Anything else is a dict with one key, its kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from surgery.errors import ArtifactError

PLAIN = (type(None), bool, int, float, str)
DTYPES = {
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
}  # fmt: skip
"""Those that safetensors has for dense tensors."""
SEQUENCES: dict[str, type[Any]] = {"list": list, "tuple": tuple, "frozenset": frozenset}
Classes = Mapping[str, type[Any]]
"""Dataclasses by their names."""
NO_CLASSES: Classes = MappingProxyType({})


def take_apart(value: Any, put: Callable[[Tensor], int], path: str, classes: Classes = NO_CLASSES) -> Any:
    """The skeleton of `value`.

    Args:
        value: dicts with text for keys, lists, tuples, sets of text, tensors, dtypes, devices and plain data.
        put: is given each tensor, in order; the number that it returns stands in the skeleton.
        path: what to call `value` in an error.
        classes: the dataclasses that it may hold besides.

    Raises:
        ArtifactError: it holds anything else, or a class of its own derived from one of these.
    """
    kind = type(value)

    def inside(item: Any, key: Any) -> Any:
        return take_apart(item, put, f"{path}.{key}", classes)

    if kind in PLAIN:
        return value
    if isinstance(value, Tensor) and _is_dense(value):
        return {"tensor": put(value)}
    if kind in (torch.dtype, torch.device):
        return {kind.__name__: str(value).removeprefix("torch.")}
    if kind in SEQUENCES.values():
        items = sorted(value) if kind is frozenset else value
        return {kind.__name__: [inside(item, i) for i, item in enumerate(items)]}
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: inside(item, key) for key, item in value.items()}}
    if classes.get(kind.__name__) is kind:
        return {kind.__name__: {f.name: inside(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}}
    raise ArtifactError(
        f"{path} is {_named(value)}, which a store cannot hold: make it dense tensors and plain data, or leave it out"
    )


def put_together(skeleton: Any, get: Callable[[int], Any], classes: Classes = NO_CLASSES) -> Any:
    """The value that `take_apart` was given; `get` gives the tensor of a number."""
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, inside),) = skeleton.items()
    if kind == "tensor":
        return get(inside)
    if kind in SEQUENCES:
        return SEQUENCES[kind](put_together(item, get, classes) for item in inside)
    if kind == "device":
        return torch.device(inside)
    if kind == "dtype":
        return getattr(torch, inside)
    items = {key: put_together(item, get, classes) for key, item in inside.items()}
    return items if kind == "dict" else classes[kind](**items)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.dtype in DTYPES and not tensor.is_meta


def _named(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} with layout {value.layout} on {value.device}"
    return "a dict with keys that are no text" if type(value) is dict else f"of the class {type(value).__name__}"
