"""Follows Python objects among the inputs: reading or setting an attribute of one becomes a node of the graph.

The model sees a stand-in of a class of the same name and methods, which run as they are. The values of its attributes
are kept by a copy of the user's object on the meta device, so that what one module sets, another one reads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

from surgery.errors import TraceError
from surgery.recording.guard import layout
from surgery.recording.objects import is_object
from surgery.recording.skeleton import blank
from surgery.recording.torch_private import DisableTorchFunction
from surgery.tracing.leaves import map_leaves
from surgery.tracing.sizes import Number
from surgery.tracing.tape import Tape


class Followed:
    """What all stand-ins share; `_surgery` holds their tape, and the object whose place they take."""


def is_tracked(value: Any) -> bool:
    """Whether `value` is followed through the graph (a tensor, a tracked number, ...) rather than written into it."""
    return isinstance(value, torch.Tensor | Number | BlockMask | Followed)


def stand_in(value: Any, tape: Tape) -> Any:
    """`value`, an object or a stand-in of another tape, as `tape` sees it."""
    origin = origin_of(value)
    made: Any = object.__new__(_class(type(origin)))
    object.__setattr__(made, "_surgery", (tape, origin))
    return made


def origin_of(value: Any) -> Any:
    """The object that a stand-in stands for; all else as it is."""
    return object.__getattribute__(value, "_surgery")[1] if isinstance(value, Followed) else value


def on_meta(value: Any) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A copy of an object with its tensors on the meta device, and these tensors with the real ones."""
    pairs = [(blank(t).requires_grad_(t.requires_grad), t) for t in _tensors(value, set())]
    return copy.deepcopy(value, {id(real): meta for meta, real in pairs}), pairs


def _class(base: type) -> type:
    """The class of stand-ins for objects of the class `base`, which knows it if there is one."""
    subclasses: list[type] = base.__subclasses__()
    known = next((cls for cls in subclasses if issubclass(cls, Followed)), None)
    if known is not None:
        return known
    body = {"__getattribute__": _get, "__setattr__": _set, "__delattr__": _refuse, "__reduce_ex__": _refuse}
    return type(base.__name__, (Followed, base), {**body, "__module__": base.__module__, "__hash__": object.__hash__})


def _get(self: Any, name: str) -> Any:
    """`__getattribute__` of stand-ins: data become nodes, methods run as they are."""
    tape, origin = object.__getattribute__(self, "_surgery")
    if name == "__dict__":
        _refuse(self)
    if name not in vars(origin):
        return object.__getattribute__(self, name)
    value = vars(origin)[name]
    source = tape.node_of(self)
    node = tape.graph.call_function(getattr, (source, name))
    node.meta["text"] = f"{source.meta['text']}.{name}"
    return _seen(tape, node, value)


def _seen(tape: Tape, node: Any, value: Any) -> Any:
    """What the model gets for `value`, the result of `node`."""
    seen = map_leaves(lambda leaf: _leaf(tape, leaf), value)
    with DisableTorchFunction():
        found = layout(value)
    tape.guard(layout, (node,), found, f"the layout of {node.meta['text']}")
    tape.follow(node, seen)
    if isinstance(seen, list | dict):
        tape.lend(node.meta["text"], seen)
    return seen


def _leaf(tape: Tape, value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return tape.track(value)
    return stand_in(value, tape) if is_object(value) else value


def _set(self: Any, name: str, value: Any) -> None:
    """`__setattr__` of stand-ins."""
    tape, origin = object.__getattribute__(self, "_surgery")
    tape.graph.call_function(setattr, (tape.node_of(self), name, tape.argument(value)))
    tape.has_effects = True
    setattr(origin, name, map_leaves(_plain, value))


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Number) else origin_of(value)


def _refuse(self: Any, *_: Any) -> Any:
    """What a graph cannot do to an object."""
    name = type(self).__name__
    raise TraceError(f"the model copies a {name} that it is given, or deletes from it; declare the module a leaf")


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """Every tensor in an object, once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    items = vars(value) if is_object(value) else value
    for item in items.values() if isinstance(items, dict) else items if isinstance(items, list | tuple) else ():
        yield from _tensors(item, seen)
