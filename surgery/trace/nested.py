"""Arguments of torch functions are nested: tuples, lists, dicts, slices, sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


def apply(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with `function` applied to each leaf; containers of other kinds are leaves."""
    if isinstance(value, slice):
        return slice(*(apply(function, v) for v in (value.start, value.stop, value.step)))
    if isinstance(value, torch.Size):
        return torch.Size([function(item) for item in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(apply(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(apply(function, item) for item in value)
    if isinstance(value, dict):
        return {key: apply(function, item) for key, item in value.items()}
    return function(value)


def leaves(value: Any) -> Iterator[Any]:
    """The leaves that `apply` visits, in order."""
    if isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value
