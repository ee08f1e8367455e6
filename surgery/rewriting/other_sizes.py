"""The sizes that new modules are tried at besides the traced ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

Resize = Callable[[Any], Any]
"""Gives the same values, meta tensors among them, at other sizes."""

MORE_SAMPLES = 2
MORE_TOKENS = 4


def other_sizes(tokens: tuple[int, ...], any_length: bool = True) -> Iterator[Resize]:
    """The traced sizes, and others: more samples and, if they are taken, more tokens, and a single one.

    `tokens` is (B, N, D) or, of heads, (B, H, N, K).
    """
    yield lambda values: values
    if len(tokens) in (3, 4):
        batch, length = tokens[0], tokens[-2]
        lengths = ((batch, MORE_TOKENS * length), (batch, 1)) if any_length else ()
        for to in ((batch + MORE_SAMPLES, length), *lengths):
            yield partial(_resized, tokens=tokens, to=to)


def _resized(values: Any, tokens: tuple[int, ...], to: tuple[int, int]) -> Any:
    """Meta tensors like `tokens` but for the width, at another batch size and token count.

    Of heads, keys of another number keep it.
    """
    heads = tokens[1:-2]

    def resized(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dim() < len(tokens) - (not heads):
            return value
        if heads and value.shape[0] == tokens[0]:
            length = to[1] if value.shape[-2] == tokens[-2] and not is_mask(value, tokens) else value.shape[-2]
            return value.new_empty((to[0], *value.shape[1:-2], length, value.shape[-1]))
        if not heads and tuple(value.shape[:2]) == tokens[:2]:
            return value.new_empty((*to, *value.shape[2:]))
        return value

    return pytree.tree_map(resized, values)


def is_mask(value: Any, tokens: tuple[int, ...]) -> bool:
    """Whether `value`, beside heads (B, H, N, K), is none such."""
    if not isinstance(value, torch.Tensor) or len(tokens) != 4:
        return False
    return value.dtype == torch.bool or (*value.shape[1:-2], value.shape[-1]) != (*tokens[1:-2], tokens[-1])
