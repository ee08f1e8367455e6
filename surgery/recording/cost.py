"""Counting floating point operations of what runs on the meta device, where attention is products and a softmax.

A multiply-add counts as two; matrix products, convolutions and attention are counted as `torch.utils.flop_counter` does,
and a softmax as three operations an element, which gives the paper's 4 N^2 D + 3 H N^2 for mixing N tokens. A module that
knows its own cost, as every operator of `surgery.operators` does, is asked for it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.flop_counter import flop_registry

from surgery.recording.one_thread import OneThreadMode
from surgery.recording.torch_private import pytree

SOFTMAX_FLOPS = 3
_SOFTMAX = {torch.ops.aten._softmax, torch.ops.aten._safe_softmax}


@runtime_checkable
class Counted(Protocol):
    """A module of one token stream that knows what a forward pass costs.

    Attributes:
        takes_heads: whether tensors of four dimensions are heads (B, H, N, K), not tokens on a grid (B, N, N', D).
    """

    takes_heads: bool

    def flops(self, batch: int, tokens: int) -> int:
        """Floating point operations for tokens of shape (batch, tokens, D)."""

    def flops_mixing(self, batch: int, tokens: int) -> int:
        """Those of mixing tokens alone: no projections, no filters of a featuriser."""


def cost_of(module: torch.nn.Module, arguments: Any, counted: int) -> tuple[int, int | None]:
    """What a call of `module` costs, and how much of it is mixing tokens; None if the module does not say.

    Args:
        module: it is asked, if it knows: about tokens (B, N, D), or about heads (B, H, N, K), (B H, N, K).
        arguments: of the call.
        counted: what was counted as it ran; taken where there are not as many keys as queries.
    """
    if isinstance(module, torch.nn.MultiheadAttention):
        return counted, counted - _projections(module, arguments)
    if not isinstance(module, Counted):
        return counted, None
    first, *others = (leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor))
    if isinstance(module, torch.nn.Linear):  # maps tensors of any rank
        vectors = first.numel() // first.shape[-1]
        return module.flops(vectors, 1), module.flops_mixing(vectors, 1)
    if first.dim() > 3 and not module.takes_heads:
        tokens = math.prod(first.shape[1:-1])
        return module.flops(first.shape[0], tokens), module.flops_mixing(first.shape[0], tokens)
    if first.dim() in (3, 4) and others and others[0].shape[-2:-1] != first.shape[-2:-1]:
        return counted, counted
    batch, length = first.shape[0], first.shape[-2] if first.dim() > 2 else 1
    return module.flops(batch, length), module.flops_mixing(batch, length)


def _projections(module: torch.nn.MultiheadAttention, arguments: Any) -> int:
    """What its linear maps of queries, keys, values and results take."""
    given = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)][:3]
    queries, keys, values = (tensor.numel() // tensor.shape[-1] for tensor in given)
    width = module.embed_dim
    flops: int = 2 * width * (2 * queries * width + keys * module.kdim + values * module.vdim)
    return flops


class FlopCounter(OneThreadMode):  # type: ignore[no-untyped-call]
    """Adds up the operations of all that runs inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        formula = flop_registry.get(packet)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=result))
        if packet in _SOFTMAX:
            self.total += SOFTMAX_FLOPS * result.numel()
        return result
