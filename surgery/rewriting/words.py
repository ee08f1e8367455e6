"""Values and errors in the words of a message."""

from __future__ import annotations

from typing import Any

import torch


def words(value: Any) -> str:
    """A value by shape and dtype, or by its class."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(words, value))})"
    if not isinstance(value, torch.Tensor):
        return "None" if value is None else f"a {type(value).__name__}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def size(tensor: torch.Tensor) -> str:
    """The sizes of a tensor, `2 x 64 x 96`."""
    return " x ".join(map(str, tensor.shape))


def name_is_taken(where: str, path: str, name: str) -> str:
    """What to say at `where` if `path`, which a rule calls `name`, is that of another module."""
    return f"{where}: the name {path} is taken; call the new module something else than {name!r}"
