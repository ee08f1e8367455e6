"""What a forward keeps in its modules for later calls: what holds data is written back, a cache by size is not.

A counter is refused, as each of its values would be another recording.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from surgery.errors import TraceError
from surgery.recording.describe import PLAIN, Description
from surgery.recording.in_place import called_name
from surgery.recording.objects import parts
from surgery.recording.reach import reach
from surgery.recording.skeleton import held_tensors
from surgery.recording.state import describe
from surgery.recording.surroundings import Global
from surgery.tracing.stand_ins import is_tracked

OF_KIND = {"size", "dim", "numel", "device", "dtype", "device_seen", "layout"}
"""Nodes of these names tell sizes and kinds of a tensor, not its data."""


Tensors = tuple[int, ...]
"""Tensors by id."""


def refuse_counter(where: str, before: Description, now: Description) -> None:
    """Raise TraceError if a number in the attribute `where` was `before` and is another one `now`."""
    if _counts(before, now):
        raise TraceError(
            f"the forward counts in {where}, which each call finds changed; keep the number in a buffer, or declare the "
            "module a leaf"
        )


def tensors_in(value: Any) -> Tensors:
    """Which tensors an attribute that is a container or an object holds."""
    if isinstance(value, (torch.Tensor, nn.Module, *PLAIN)):
        return ()
    return tuple(id(tensor) for _, tensor in held_tensors(value))


def refuse_kept(
    where: str, before: Description, tensors: Tensors, value: Any, node_of: Callable[[Any], fx.Node]
) -> None:
    """Raise TraceError if the forward has put data, or counts, into `value`, a container in the attribute `where`.

    Args:
        where: path of the attribute.
        before, tensors: what it was, and which tensors it held.
        value: what it is.
        node_of: gives the node that made a value.
    """
    now = describe(value)
    if now == before and tensors_in(value) == tensors:
        return
    refuse_counter(where, before, now)
    if _holds_tensors(value, node_of):
        raise TraceError(
            f"the forward keeps tensors in {where}; set an attribute instead, or declare the module a leaf"
        )
    if isinstance(value, list | deque | FunctionType | MethodType):
        raise TraceError(f"the forward changes what is in {where}, which no graph does; set an attribute instead")


def refuse_changed(variable: Global, before: Description) -> None:
    """Raise TraceError if the forward has changed a global variable, or what is in it, which was `before`."""
    if variable.describe() != before:
        raise TraceError(
            f"the forward changes the global variable {variable}, which no graph does; keep it in a buffer, or declare "
            "the module a leaf"
        )


def holds_data(value: Any, node_of: Callable[[Any], fx.Node]) -> bool:
    """Whether `value` depends on more than sizes: on tensors that the forward is given, or on a number of its own."""
    return _holds_tensors(value, node_of) or any(isinstance(part, bool | int | float) for part in _parts(value))


def _holds_tensors(value: Any, node_of: Callable[[Any], fx.Node]) -> bool:
    """Whether a part of `value` is computed from tensors that the forward is given."""
    tracked = (*(part for part in _parts(value) if is_tracked(part)), *(tensor for _, tensor in held_tensors(value)))
    return any(_is_data(source) for part in tracked for source in _ancestors(node_of(part)))


def _parts(value: Any) -> Iterator[Any]:
    yield from parts(value, is_leaf=is_tracked)


def _is_data(node: fx.Node) -> bool:
    return node.op in ("placeholder", "call_module") and isinstance(node.meta.get("val"), torch.Tensor)


def _ancestors(node: fx.Node) -> Iterator[fx.Node]:
    """`node` and all that it is computed from, but for tensors of which it only tells the size or kind."""

    def above(found: fx.Node) -> list[fx.Node]:
        is_kind = found.target is getattr and found.args[1] in OF_KIND
        return [] if is_kind or called_name(found) in OF_KIND or _reads_integers(found) else found.all_input_nodes

    return reach([node], above)


def _reads_integers(node: fx.Node) -> bool:
    """Whether `node` takes whole numbers out of a tensor, such as sizes of a grid, by which caches are kept too."""
    if called_name(node) not in ("item", "tolist") or not node.all_input_nodes:
        return False
    value = node.all_input_nodes[0].meta.get("val")
    return isinstance(value, torch.Tensor) and not value.is_floating_point()


def _counts(before: Description, now: Description) -> bool:
    """Whether a number, or an array of NumPy, in a description is another one than `before`."""
    if not isinstance(before, tuple) or not isinstance(now, tuple):
        return False
    if before[:1] in ((int,), (float,)):
        return now[:1] in ((int,), (float,)) and before != now
    if before[:1] == (np.ndarray,):
        return before != now
    return any(map(_counts, before, now))
