"""Kernels of softmax attention: flash-attn 2 and 4, FlexAttention and NATTEN.

Shape legend: B batch, H query heads, G key heads, N queries, M keys, K features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from surgery.operators.backends.table import FLOAT, HALF, Backend, KernelCall, capability, wants

HOPPER = 9


def _flash_2(q_BHNK: Tensor, k_BGMK: Tensor, v_BGMK: Tensor, left: int = -1, right: int = -1) -> Tensor:
    """Attention within a window, -1 for none: (B, H, N, K)."""
    qkv = (x.transpose(1, 2) for x in (q_BHNK, k_BGMK, v_BGMK))
    y_BNHK: Tensor = import_module("flash_attn").flash_attn_func(*qkv, window_size=(left, right))
    return y_BNHK.transpose(1, 2)


def _refuses_2(call: KernelCall) -> str | None:
    return wants(call, HALF, (8, 0)) or _no_mask(call) or _no_wider(call, 256)


def _flash_4(
    q_BHNK: Tensor, k_BGMK: Tensor, v_BGMK: Tensor, left: int | None = None, right: int | None = None
) -> Tensor:
    """Attention within a window, None for none: (B, H, N, K)."""
    qkv = (x.transpose(1, 2) for x in (q_BHNK, k_BGMK, v_BGMK))
    found = import_module("flash_attn.cute").flash_attn_func(*qkv, window_size=(left, right))
    # Versions differ in whether the logarithm of the denominator comes along.
    y_BNHK: Tensor = found[0] if isinstance(found, tuple) else found
    return y_BNHK.transpose(1, 2)


def _refuses_4(call: KernelCall) -> str | None:
    reason = wants(call, HALF, (HOPPER, 0)) or _no_mask(call) or _no_wider(call, 128) or _multiple_of_8(call)
    if reason is None and call.operator == "sliding_window" and call.grad and capability(call.device)[0] == HOPPER:
        return "its backward pass on Hopper knows no windows"
    return reason


def _flex_window(q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, left: int, right: int) -> Tensor:
    """Attention to the tokens i - left .. i + right: (B, H, N, K)."""
    mask = _window_mask(q_BHNK.shape[2], left, right, str(q_BHNK.device))
    return _flex()(q_BHNK, k_BHMK, v_BHMK, block_mask=mask)


def _flex_near(q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, window: int, grid: tuple[int, ...]) -> Tensor:
    """Attention within a neighbourhood on a grid: (B, H, N, K)."""
    return _flex()(q_BHNK, k_BHMK, v_BHMK, block_mask=_near_mask(window, grid, str(q_BHNK.device)))


def _refuses_flex(call: KernelCall) -> str | None:
    # On a CPU FlexAttention has no backward pass.
    narrow = call.shape[3] < 16
    reason = f"it needs heads of 16 features at least, and these have {call.shape[3]}" if narrow else None
    return wants(call, FLOAT) or _no_mask(call) or reason


@cache
def _flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


@cache
def _window_mask(tokens: int, left: int, right: int, device: str) -> Any:
    return _block_mask(within_window(left, right), tokens, device)


@cache
def _near_mask(window: int, grid: tuple[int, ...], device: str) -> Any:
    return _block_mask(within_neighbourhood(window, grid), math.prod(grid), device)


def _block_mask(seen: Callable[..., Tensor], tokens: int, device: str) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(seen, None, None, tokens, tokens, device=device)


def within_window(left: int, right: int) -> Callable[[Any, Any, Tensor, Tensor], Tensor]:
    """Whether query i sees key j, for i - left <= j <= i + right."""

    def seen(_batch: Any, _head: Any, i: Tensor, j: Tensor) -> Tensor:
        return (i - j <= left) & (j - i <= right)

    return seen


def within_neighbourhood(window: int, grid: tuple[int, ...]) -> Callable[[Any, Any, Tensor, Tensor], Tensor]:
    """Whether query i sees key j, in raster order; at a border the neighbourhood is shifted inward."""

    def seen(_batch: Any, _head: Any, i: Tensor, j: Tensor) -> Tensor:
        all_axes = i >= 0
        for size in reversed(grid):
            width = min(window, size)
            first = (i % size - width // 2).clamp(0, size - width)
            all_axes = all_axes & (j % size >= first) & (j % size < first + width)
            i, j = i // size, j // size
        return all_axes

    return seen


def _natten(q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, window: int, grid: tuple[int, ...]) -> Tensor:
    """Attention within a neighbourhood on a grid: (B, H, N, K)."""
    natten = import_module("natten")
    attend = natten.na2d if len(grid) == 2 else natten.na3d
    qkv = (x.transpose(1, 2).reshape(len(x), *grid, *x.shape[1::2]) for x in (q_BHNK, k_BHMK, v_BHMK))
    y_BNHK: Tensor = attend(*qkv, kernel_size=(window,) * len(grid)).flatten(1, len(grid))
    return y_BNHK.transpose(1, 2)


def _refuses_natten(call: KernelCall) -> str | None:
    if min(call.grid) < call.window or call.window < 3:
        grid = " x ".join(map(str, call.grid))
        return f"it needs a window of 3 at least that fits into the grid, and {call.window} on {grid} does not"
    return wants(call, FLOAT) or _no_mask(call) or _multiple_of_8(call)


def _no_mask(call: KernelCall) -> str | None:
    return "it takes no mask" if call.masked else None


def _no_wider(call: KernelCall, most: int) -> str | None:
    width = call.shape[3]
    return f"it takes heads of {most} features at most, and these have {width}" if width > most else None


def _multiple_of_8(call: KernelCall) -> str | None:
    width = call.shape[3]
    return f"it takes heads of a multiple of 8 features, and these have {width}" if width % 8 else None


FLASH_2 = Backend(
    name="flash-attn",
    package="flash-attn",
    module="flash_attn",
    runs={"sliding_window": _flash_2, "grouped_query": _flash_2},
    refuses=_refuses_2,
)
FLASH_4 = Backend(
    name="flash-attn-4",
    package="flash-attn-4",
    module="flash_attn.cute",
    runs={"sliding_window": _flash_4, "grouped_query": _flash_4},
    refuses=_refuses_4,
)
FLEX = Backend(
    name="flex-attention",
    package="torch",
    module="torch.nn.attention.flex_attention",
    runs={"sliding_window": _flex_window, "neighbourhood_attention": _flex_near},
    refuses=_refuses_flex,
    by_name_only=True,
    note="only by its name: it compiles first, and again for other sizes",
)
NATTEN = Backend(
    name="natten",
    package="natten",
    module="natten",
    runs={"neighbourhood_attention": _natten},
    refuses=_refuses_natten,
)
