"""Sequences in chunks of tokens, and the states between them.

Shape legend: B sequences, N tokens, M chunks, then whatever a token or a state has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SEGMENT = {"cpu": 1024, "cuda": 16384}
"""Tokens at a time by device: enough to be fast, so that what is in between stays small, whatever their number.

On a CPU it stays in the cache, too: that takes half of the time, or a third, of 16,384 tokens at once.
"""
LOOP = 16
"""Steps one after the other at most, where they are not cheap."""
Times = Callable[[Tensor, Tensor], Tensor]
STEP: dict[Times, Callable[[Tensor, Tensor, Tensor], Tensor]] = {torch.mul: torch.addcmul, torch.matmul: torch.baddbmm}
"""The sum of a tensor and a product, in one call."""


def in_chunks(x: Tensor, size: int) -> Tensor:
    """(B, N, ...) as (B, M, size, ...), with zeros behind the end."""
    chunks = (x.shape[1] + size - 1) // size
    padding = (0, 0) * (x.ndim - 2) + (0, chunks * size - x.shape[1])
    return (F.pad(x, padding) if padding[-1] else x).reshape(len(x), chunks, size, *x.shape[2:])


def steps_are_cheap(x: Tensor) -> bool:
    """Whether many small steps are fastest, as what they need stays in the cache: in eager mode on a CPU.

    On a GPU each of them waits for its start, and a compiler writes all of them down.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def tokens_at_once(x: Tensor, tokens: int, size: int) -> int:
    """How many of the tokens to go through at a time, in chunks of `size`; all in compiled code, whose length would
    grow."""
    if torch.compiler.is_compiling():
        return tokens
    return max(SEGMENT.get(x.device.type, tokens) // size, 1) * size


def in_segments(
    scan: Callable[..., tuple[Tensor, Tensor]],
    sequences: Sequence[Tensor],
    first: Tensor,
    size: int,
    *,
    backwards: bool = False,
) -> Tensor:
    """What `scan(*tokens, state)` returns for some tokens after the others, and the state for the next: (B, N, ...).

    Args:
        scan: gets whole chunks, but for the last ones of the sequences.
        sequences: (B, N, ...) each.
        first: the state to start from.
        size: tokens of a chunk.
        backwards: from the last tokens to the first.
    """
    tokens = tokens_at_once(first, sequences[0].shape[1], size)
    pieces = list(zip(*(torch.split(each, tokens, 1) for each in sequences), strict=True))
    results, state = [], first
    for piece in reversed(pieces) if backwards else pieces:
        y, state = scan(*piece, state)
        results.append(y)
    return torch.cat(results[::-1] if backwards else results, 1)


def states(
    kept: Tensor,
    added: Tensor,
    first: Tensor,
    times: Times,
    *,
    backwards: bool = False,
) -> tuple[Tensor, Tensor]:
    """What enters each chunk (B, M, ...) and leaves the last, if chunk m turns a state S into kept_m S + added_m.

    Where steps are not cheap, their number grows with the logarithm of M: two chunks in a row make one, half as many are
    gone through, and what is between follows from those.

    Args:
        kept: (B, M, ...), by what each chunk multiplies the state.
        added: (B, M, ...), what it adds.
        first: (B, ...), what enters the first chunk, or the last.
        times: how `kept` multiplies, `torch.mul` or `torch.matmul`.
        backwards: from the last chunk to the first, which the last state leaves then.
    """
    if steps_are_cheap(first):
        return _one_by_one(kept, added, first, times, backwards=backwards)
    if not backwards:
        return _halved(kept, added, first, times)
    entered, last = _halved(kept.flip(1), added.flip(1), first, times)
    return entered.flip(1), last


def _one_by_one(
    kept: Tensor, added: Tensor, first: Tensor, times: Times, *, backwards: bool = False
) -> tuple[Tensor, Tensor]:
    steps = list(zip(kept.unbind(1), added.unbind(1), strict=True))
    entered, state = [], first
    for kept_m, added_m in reversed(steps) if backwards else steps:
        entered.append(state)
        state = STEP[times](added_m, kept_m, state)
    return torch.stack(entered[::-1] if backwards else entered, 1), state


def _halved(kept: Tensor, added: Tensor, first: Tensor, times: Times) -> tuple[Tensor, Tensor]:
    if kept.shape[1] <= LOOP:
        return _one_by_one(kept, added, first, times)
    early_kept, early_added = kept[:, 0::2], added[:, 0::2]
    late_kept, late_added = kept[:, 1::2], added[:, 1::2]
    pairs = late_kept.shape[1]
    early_entered, last = _halved(
        times(late_kept, early_kept[:, :pairs]), late_added + times(late_kept, early_added[:, :pairs]), first, times
    )
    late_entered = early_added[:, :pairs] + times(early_kept[:, :pairs], early_entered)
    entered = torch.stack([early_entered, late_entered], 2).flatten(1, 2)
    if early_kept.shape[1] > pairs:
        entered = torch.cat([entered, last.unsqueeze(1)], 1)
        last = early_added[:, -1] + times(early_kept[:, -1], last)
    return entered, last
