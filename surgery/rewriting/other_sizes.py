"""The sizes that new modules are tried at besides the traced ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from surgery.errors import RewriteError

Result = TypeVar("Result")
ToSize = Callable[[Any], Any]
"""Gives the same values, meta tensors among them, at other sizes."""

MORE_SAMPLES = 2
MORE_TOKENS = 4


def at_each_size(tokens: tuple[int, ...], run: Callable[[ToSize], Result], any_length: bool = True) -> list[Result]:
    """What `run` gives at the traced sizes, and at others: more samples and, if they are taken, more tokens, and one.

    A matrix beside tokens may have a number for each of them, or features of each sample that happen to be as many: one
    of both has to do.

    Args:
        tokens: the traced sizes, (B, N, D) or, of heads, (B, H, N, K).
        run: is given what resizes values.
        any_length: whether other numbers of tokens are taken.

    Raises:
        RewriteError: `run` fails at one of the sizes.
    """
    results = [run(lambda values: values)]
    if len(tokens) in (3, 4):
        batch, length = tokens[0], tokens[-2]
        lengths = ((batch, MORE_TOKENS * length), (batch, 1)) if any_length else ()
        results += [_either(tokens, to, run) for to in ((batch + MORE_SAMPLES, length), *lengths)]
    return results


def _either(tokens: tuple[int, ...], to: tuple[int, int], run: Callable[[ToSize], Result]) -> Result:
    """What `run` gives where each row of a matrix has a number for each token, or where it has features."""
    try:
        return run(partial(_resized, tokens=tokens, to=to, rows=to[1]))
    except RewriteError as error:
        if len(tokens) == 3 and to[1] != tokens[1]:
            with suppress(RewriteError):
                return run(partial(_resized, tokens=tokens, to=to, rows=tokens[1]))
        raise error


def _resized(values: Any, tokens: tuple[int, ...], to: tuple[int, int], rows: int) -> Any:
    """Meta tensors like `tokens` but for the width, at another batch size and token count.

    A matrix gets rows of the length `rows`. Of heads, keys of another number keep it.
    """
    heads = tokens[1:-2]

    def resized(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dim() < len(tokens) - (not heads):
            return value
        if heads and value.shape[0] == tokens[0]:
            length = to[1] if value.shape[-2] == tokens[-2] and not is_mask(value, tokens) else value.shape[-2]
            return value.new_empty((to[0], *value.shape[1:-2], length, value.shape[-1]))
        if not heads and value.shape[0] == tokens[0] and is_mask(value, tokens) and value.shape != tokens:
            return value.new_empty((to[0], *value.shape[1:]))
        if not heads and tuple(value.shape[:2]) == tokens[:2]:
            return value.new_empty((to[0], to[1] if value.dim() > 2 else rows, *value.shape[2:]))
        return value

    return pytree.tree_map(resized, values)


def is_mask(value: Any, tokens: tuple[int, ...]) -> bool:
    """Whether `value`, beside heads (B, H, N, K), is none such; or beside (B, N, K) has a number for each of N keys."""
    if not isinstance(value, torch.Tensor):
        return False
    if len(tokens) == 3:
        return value.dim() == 3 and tuple(value.shape[1:]) in ((1, tokens[1]), (tokens[1], tokens[1]))
    if len(tokens) != 4:
        return False
    return value.dtype == torch.bool or (*value.shape[1:-2], value.shape[-1]) != (*tokens[1:-2], tokens[-1])
