"""Follows Python objects among the inputs: reading or setting an attribute of one becomes a node of the graph.

The model sees a stand-in of a class of the same name and methods, which run as they are. The values of its attributes
are kept by a copy of the user's object on the meta device, so that what one module sets, another one reads.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

from surgery.errors import TraceError
from surgery.recording.guard import layout
from surgery.recording.objects import Followed, is_object, origin_of, parts
from surgery.recording.skeleton import blank
from surgery.recording.torch_private import DisableTorchFunction
from surgery.tracing.leaves import map_leaves
from surgery.tracing.sizes import Number
from surgery.tracing.tape import Tape


def is_tracked(value: Any) -> bool:
    """Whether `value` is followed through the graph (a tensor, a tracked number, ...) rather than written into it."""
    return isinstance(value, torch.Tensor | Number | BlockMask | Followed | nn.Module)


def stand_in(value: Any, tape: Tape, fixed: bool = False) -> Any:
    """`value`, an object or a stand-in of another tape, as `tape` sees it; one that is `fixed` is not to be changed."""
    fixed = fixed or (isinstance(value, Followed) and _held(value)[2])
    new: Any = object.__new__(_class(type(origin_of(value))))
    object.__setattr__(new, "_surgery", (tape, origin_of(value), fixed))
    return new


def _held(value: Followed) -> tuple[Tape, Any, bool]:
    """The tape of a stand-in, the object that it stands for, and whether that is fixed."""
    held: tuple[Tape, Any, bool] = object.__getattribute__(value, "_surgery")
    return held


def is_followed_inside(value: Any) -> bool:
    """Whether `value` is tracked, or holds something that is."""
    return any(map(is_tracked, parts(value, is_leaf=is_tracked)))


def on_meta(value: Any) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A copy of an object with its tensors on the meta device, and these tensors with the real ones."""
    tensors = [part for part in parts(value) if isinstance(part, torch.Tensor)]
    pairs = [(blank(t).requires_grad_(t.requires_grad), t) for t in tensors]
    return copy.deepcopy(value, {id(real): meta for meta, real in pairs}), pairs


def _class(base: type) -> type:
    """The class of stand-ins for objects of the class `base`, which knows it if there is one."""
    subclasses: list[type] = base.__subclasses__()
    known = next((cls for cls in subclasses if issubclass(cls, Followed)), None)
    if known is not None:
        return known
    body = {"__getattribute__": _get, "__setattr__": _set, "__delattr__": _refuse, "__reduce_ex__": _refuse}
    body["__new__"] = lambda _, *args, **kwargs: base(*args, **kwargs)  # `type(self)(...)` makes no stand-in
    return type(base.__name__, (Followed, base), {**body, "__module__": base.__module__, "__hash__": object.__hash__})


def _get(self: Any, name: str) -> Any:
    """`__getattribute__` of stand-ins: data become nodes, methods run as they are."""
    tape, origin, fixed = _held(self)
    if name == "__dict__":
        _refuse(self)
    if name == "__class__":
        return type(origin)
    if name not in vars(origin):
        return object.__getattribute__(self, name)
    value = vars(origin)[name]
    source = tape.node_of(self)
    node = tape.graph.call_function(getattr, (source, name))
    node.meta["text"] = f"{source.meta['text']}.{name}"
    return _seen(tape, node, value, fixed)


def _seen(tape: Tape, node: Any, value: Any, fixed: bool) -> Any:
    """What the model gets for `value`, the result of `node`."""
    seen = map_leaves(lambda leaf: _leaf(tape, leaf, fixed), value)
    with DisableTorchFunction():
        found = layout(value)
    tape.guard(layout, (node,), found, f"the layout of {node.meta['text']}")
    tape.follow(node, seen)
    if isinstance(seen, list | dict):
        tape.lend(node.meta["text"], seen)
    return seen


def _leaf(tape: Tape, value: Any, fixed: bool) -> Any:
    if isinstance(value, int | float | Number) and not isinstance(value, bool):
        return tape.track(_plain(value))
    return stand_in(value, tape, fixed) if is_object(value) else value


def _set(self: Any, name: str, value: Any) -> None:
    """`__setattr__` of stand-ins."""
    tape, origin, fixed = _held(self)
    if fixed:
        kind = type(origin).__name__
        raise TraceError(f"a module sets {name!r} of a {kind} that another one made; let it make a new {kind} instead")
    tape.graph.call_function(setattr, (tape.node_of(self), name, tape.argument(value)))
    tape.has_effects = True
    setattr(origin, name, map_leaves(_plain, value))


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Number) else origin_of(value)


def _refuse(self: Any, *_: Any) -> Any:
    """What a graph cannot do to an object."""
    name = type(self).__name__
    raise TraceError(f"the model copies a {name} that it is given, or deletes from it; declare the module a leaf")
