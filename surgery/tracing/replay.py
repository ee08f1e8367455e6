"""A call that is bound to be recorded as another was is not run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from surgery.recording.objects import is_object, made
from surgery.recording.paths import below, is_inside, relative
from surgery.recording.recording import Recording, Scope
from surgery.recording.torch_private import pytree
from surgery.tracing.sizes import Number, concrete

Track = Callable[[int | float], Number]
"""Follows a number in the caller's frame."""


def share_recordings(scopes: dict[str, Scope], origin: str, path: str) -> None:
    """Give the modules below `path` the recordings of those below `origin`, an identical module."""
    if origin == path:
        return
    for known in [p for p in scopes if p != origin and is_inside(p, origin)]:
        source, target = scopes[known], below(path, relative(known, origin))
        scope = scopes.setdefault(target, Scope(target, source.module_class, params=source.params))
        for recording in source.recordings:
            scope.add(recording)


def replayed(recording: Recording, leaves: list[Any], track: Track | None) -> Any:
    """The result of a call like that of `recording`, on other `leaves`; numbers in it are followed by `track`."""
    inputs = {id(before): now for before, now in zip(recording.in_leaves, leaves, strict=True)}
    return pytree.tree_unflatten([_twin(v, inputs, track) for v in recording.out_leaves], recording.out_spec)


def _twin(value: Any, inputs: dict[int, Any], track: Track | None) -> Any:
    """A fresh value like one of a recording, or the caller's own where an input was handed through."""
    if isinstance(value, torch.Tensor):
        if id(value) in inputs:
            return inputs[id(value)]
        blank = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")
        return blank.requires_grad_(value.requires_grad) if value.requires_grad else blank
    if is_object(value):
        return made(type(value), pytree.tree_map(lambda each: _twin(concrete(each), inputs, track), vars(value)))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return track(value) if is_number and track is not None else value
