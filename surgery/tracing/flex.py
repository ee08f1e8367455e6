"""Records FlexAttention: its functions become single nodes, and a `BlockMask` a value that the graph follows.

What a mask function computes is not recorded: the graph makes the function anew, from the values that it closes over.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any
from unittest import mock

import torch
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention

from surgery.errors import TraceError
from surgery.recording.closure import Closure, block_mask_from_kv_blocks, closed_over
from surgery.recording.surroundings import STANDS_FOR
from surgery.tracing.frame import Frame
from surgery.tracing.leaves import map_leaves
from surgery.tracing.on_meta import META
from surgery.tracing.sizes import Number

Current = Callable[[], Frame | None]
Opaque = Callable[[Callable[[], Any]], tuple[Any, int]]

create_block_mask, create_mask, flex_attention = flex.create_block_mask, flex.create_mask, flex.flex_attention


@contextmanager
def recorded_flex(current: Current, opaque: Opaque) -> Iterator[None]:
    """While this context is open, calls of FlexAttention's functions are written to the frame that `current` gives.

    Args:
        current: the frame that the model's own code is recorded in, if it is its code that runs.
        opaque: runs a function unrecorded.
    """
    record = functools.partial(_recorded, current, opaque)
    stand_ins = {
        create_block_mask: record(create_block_mask, create_block_mask, _on_meta(create_block_mask)),
        create_mask: record(create_mask, create_mask, _on_meta(create_mask)),
        flex_attention: record(flex_attention, flex_attention, _attention),
    }
    plain = BlockMask.from_kv_blocks
    from_kv_blocks = record(plain, block_mask_from_kv_blocks, plain)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(BlockMask, "from_kv_blocks", staticmethod(from_kv_blocks)))
        for space in list(sys.modules.values()):
            for function, stand_in in stand_ins.items():
                name = function.__name__
                if getattr(space, "__dict__", {}).get(name) is function:
                    stack.enter_context(mock.patch.object(space, name, stand_in))
        yield


def _recorded(
    current: Current,
    opaque: Opaque,
    function: Callable[..., Any],
    target: Callable[..., Any],
    on_meta: Callable[..., Any],
) -> Callable[..., Any]:
    """`function`, which writes a call of `target` where the model's own code calls it; `on_meta` computes the result."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        frame = current()
        if frame is None:
            return function(*args, **kwargs)
        plain = map_leaves(_plain, (args, kwargs))
        result, flops = opaque(lambda: on_meta(*plain[0], **plain[1]))
        args, kwargs = map_leaves(lambda value: _argument(frame, value), (args, kwargs))
        frame.call("call_function", target, args, kwargs, result, flops)
        return result

    setattr(call, STANDS_FOR, function)
    return call


def _plain(value: Any) -> Any:
    """`value` without tracked numbers, on the meta device."""
    if isinstance(value, Number):
        return value.value
    if isinstance(value, FunctionType) and value.__closure__:
        return Closure(value)(*(map_leaves(_plain, item) for item in closed_over(value)))
    return META if isinstance(value, torch.device) else value


def _argument(frame: Frame, value: Any) -> Any:
    """`value` as an argument of a node: a function is made by a node of its own."""
    if isinstance(value, FunctionType):
        values = tuple(map_leaves(lambda item: _argument(frame, item), item) for item in closed_over(value))
        return frame.graph.call_function(Closure(value), frame.argument(values))
    if isinstance(value, functools.partial):
        raise TraceError("FlexAttention is given a functools.partial; give it a function defined by def")
    return value


def _on_meta(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which makes masks, on the meta device and without compiling."""

    def call(*args: Any, device: Any = None, _compile: bool = False, **options: Any) -> Any:  # noqa: ARG001
        return function(*args[:5], device=META, **options)

    return call


def _attention(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> Any:
    """Of the shapes, and at the cost, of full attention: how much a mask leaves out is not known without values."""
    given = dict(zip(("score_mod", "block_mask", "scale", "enable_gqa", "return_lse"), args, strict=False)) | options
    if given.get("return_aux") is not None:
        raise TraceError("FlexAttention with return_aux is not followed; declare the module that calls it a leaf")
    result = scaled_dot_product_attention(query, key, value, enable_gqa=given.get("enable_gqa", False))
    return (result, query[..., 0].float()) if given.get("return_lse") else result
