"""Neighbourhood attention over sequences, pictures and videos, in time and memory linear in the number of tokens.

Shape legend: B batch, H heads, N tokens, T tokens of a text, K features of a head, E = H * K.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.backends import kernel
from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.grid import Axes, Grid, Text, apart, on_grid, rank_of, require_grid, sizes, together
from surgery.operators.masks import of_pairs, without_unseen
from surgery.operators.mixer import MixerConfig, MixerCore
from surgery.operators.softmax import flops_softmax
from surgery.operators.tiles import Masks, dilated_attention


class NeighbourhoodAttention(MixerConfig):
    """Each token attends to the window x window (x window) tokens around it, or to every `dilation`-th one.

    Sources: "Neighborhood Attention Transformer" (arXiv 2204.07143), "Dilated Neighborhood Attention Transformer"
    (arXiv 2209.15001). Tokens whose places differ by multiples of the dilation are one grid of their own. At a border
    the window is shifted inward, so that every token sees as many; on a grid that is smaller than the window it is the
    whole axis. Tokens of a text see all tokens and are seen by all, as in "CLEAR" (arXiv 2412.16112), which makes FLUX.1
    linear.

    Attributes:
        window: tokens along each axis, odd.
        dilation: the step from one of them to the next; more than 1 in plain PyTorch only.
        axes: 1 for the raster order; None means those of `grid`, or 2 without one.
        grid: rows and columns, or frames, rows and columns; None means a square.
        text: where tokens stand that lie on no grid, as in joint attention; in plain PyTorch only.
        backend: the kernel; see `surgery.operators.backends`.
    """

    kind: Literal["neighbourhood_attention"] = "neighbourhood_attention"
    window: PositiveInt = 7
    dilation: PositiveInt = 1
    axes: Axes | None = None
    grid: Grid | None = None
    text: Text | None = None
    backend: Literal["auto", "torch", "natten", "flex-attention"] = "auto"

    @field_validator("window")
    @classmethod
    def _is_odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError("must be odd")
        return window

    @model_validator(mode="after")
    def _has_a_layout(self) -> Self:
        require_grid(self.grid, self.text)
        rank_of(self.axes, self.grid)
        if self.unusual and self.backend not in ("auto", "torch"):
            raise ValueError(
                f"{self.unusual} is not for {self.backend}, which knows a grid without steps only; use backend='torch'"
            )
        return self

    @property
    def unusual(self) -> str | None:
        """The first setting that only the plain PyTorch form knows."""
        settings = {"text": self.text is not None, "dilation": self.dilation > 1, "axes": self.axes == 1}
        return next((f"{name}={getattr(self, name)!r}" for name, given in settings.items() if given), None)

    @override
    def build(self, dims: MixerDims) -> NeighbourhoodMixer:
        """Return a new NeighbourhoodMixer with random weights."""
        return NeighbourhoodMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> NeighbourhoodCore:
        """Return a NeighbourhoodCore."""
        return NeighbourhoodCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """Those of full attention times the share of scores kept."""
        image = on_grid(tokens, self.grid, self.text)
        text = tokens - image
        seen = math.prod(self._seen(size) for size in self._sizes(image))
        return flops_softmax(dims, pairs=batch * (seen + text * (image + tokens)))

    def _sizes(self, tokens: int) -> tuple[int, ...]:
        """Of the grid that so many tokens lie on: by default a square, as nearly as they fill one."""
        if self.grid is not None or self.axes == 1:
            return self.grid or (tokens,)
        side = round(tokens**0.5)
        return (side, side)

    def _seen(self, size: int) -> int:
        """Pairs of tokens along an axis that see each other."""
        lengths = [len(range(first, size, self.dilation)) for first in range(min(self.dilation, size))]
        return sum(length * min(self.window, length) for length in lengths)


class NeighbourhoodCore(MixerCore):
    """Softmax attention within a neighbourhood, under any mask."""

    takes_mask = True

    def __init__(self, config: NeighbourhoodAttention, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.window, self.dilation = config.window, config.dilation
        self.grid, self.axes = config.grid, config.axes or (len(config.grid) if config.grid else 2)
        self.is_plain = config.unusual is not None
        self.text = config.text
        self.backend = config.backend

    @override
    def mix(
        self,
        q_BHNK: Tensor,
        k_BHMK: Tensor,
        v_BHMK: Tensor,
        mask: Tensor | None = None,
        *,
        grid: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Attend within the neighbourhood on `grid`, or on the config's, or on a square: (B, H, N, K).

        Raises:
            RewriteError: the tokens do not lie on that grid.
        """
        grid = grid or self.grid
        axes = len(grid) if grid and self.axes > 1 else self.axes
        found = sizes(grid, on_grid(q_BHNK.shape[2], grid, self.text), axes=axes)
        traits = {"window": self.window, "grid": found, "masked": mask is not None}
        run = None if self.is_plain else kernel(self.backend, self.config.kind, q_BHNK, **traits)
        if run is not None:
            return run(q_BHNK, k_BHMK, v_BHMK, window=self.window, grid=found)
        mask_BHNM = None if mask is None else of_pairs(mask, k_BHMK.shape[2])
        k_BHMK, v_BHMK = (without_unseen(x, mask_BHNM) for x in (k_BHMK, v_BHMK))
        return self._attend(q_BHNK, k_BHMK, v_BHMK, mask_BHNM, found)

    def _attend(
        self, q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, mask_BHNM: Tensor | None, grid: tuple[int, ...]
    ) -> Tensor:
        """The tokens on the grid to their neighbourhoods and the text, those of the text to all: (B, H, N, K)."""
        heads = q_BHNK.shape[1]
        qkv = (rearrange(x, "b h n k -> b n (h k)") for x in (q_BHNK, k_BHMK, v_BHMK))
        (q_BNE, text_BTE), (k_BNE, text_k_BTE), (v_BNE, text_v_BTE) = (apart(x, grid, self.text) for x in qkv)
        mask = None if mask_BHNM is None else Masks.of(mask_BHNM, *self._places(mask_BHNM, grid))
        y_BNE = dilated_attention(
            q_BNE, k_BNE, v_BNE, heads=heads, window=self.window, dilation=self.dilation, grid=grid,
            text=None if self.text is None else (text_k_BTE, text_v_BTE), mask=mask,
        )  # fmt: skip
        if text_BTE.shape[1]:
            query_BHTK = rearrange(text_BTE, "b t (h k) -> b h t k", h=heads)
            rows = mask_BHNM
            if mask_BHNM is not None and mask_BHNM.shape[2] > 1:
                rows = mask_BHNM[:, :, self._places(mask_BHNM, grid)[1]]
            seeing_BHTK = F.scaled_dot_product_attention(query_BHTK, k_BHMK, v_BHMK, attn_mask=rows)
            y_BNE = together(y_BNE, rearrange(seeing_BHTK, "b h t k -> b t (h k)"), self.text)
        y_BHNK: Tensor = rearrange(y_BNE, "b n (h k) -> b h n k", h=heads)
        return y_BHNK

    def _places(self, mask_BHNM: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Which tokens lie on the grid, and which do not."""
        every = torch.arange(mask_BHNM.shape[3], device=mask_BHNM.device)
        image_1N1, text_1T1 = apart(every[None, :, None], grid, self.text)
        return image_1N1.flatten(), text_1T1.flatten()


class NeighbourhoodMixer(CoreMixer):
    """Neighbourhood attention between projections."""

    @override
    def why_inexact(self, attention: nn.Module) -> str | None:
        """Unless the config gives a grid that the window covers: other grids are known at run time only."""
        assert isinstance(self.config, NeighbourhoodAttention)
        grid, window = self.config.grid, self.config.window
        if grid is not None and max(grid) <= window and self.config.dilation == 1:
            return None
        return f"a window of {window} does not cover {'every square' if grid is None else f'the grid {grid}'}"
