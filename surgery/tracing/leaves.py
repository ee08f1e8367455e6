"""Arguments of torch functions are nested: tuples, lists, dicts, slices, sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from surgery.recording.torch_private import pytree


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with `function` applied to each leaf; containers of other kinds are leaves."""
    if isinstance(value, slice):
        return slice(*(map_leaves(function, v) for v in (value.start, value.stop, value.step)))
    if isinstance(value, torch.Size):
        return torch.Size([function(item) for item in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_leaves(function, item) for item in value)
    if isinstance(value, dict):
        return {key: map_leaves(function, item) for key, item in value.items()}
    return function(value)


def leaves(value: Any) -> Iterator[Any]:
    """The leaves that `map_leaves` visits, in order."""
    if isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def containers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], list[Any] | dict[Any, Any]]]:
    """Every list and dict in `value`, inner ones last, with the keys that lead to it."""
    if isinstance(value, list | dict) and path:
        yield path, value
    if isinstance(value, list | tuple | dict):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from containers(item, (*path, key))


def leaf_names(arguments: dict[str, Any]) -> list[str]:
    """A readable identifier for each leaf, such as `encoder_hidden_states` or `added_cond_kwargs_resolution`."""
    paths, _ = pytree.tree_flatten_with_path(arguments)
    return ["_".join(re.findall(r"\w+", pytree.keystr(path))) for path, _ in paths]
