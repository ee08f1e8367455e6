"""Grouped-query attention: several query heads share a key head and a value head.

Shape legend: B batch, H heads, G groups, N queries, M keys, K features of a head, D features of the stream.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.backends import kernel
from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.mixer import MixerConfig, MixerCore
from surgery.operators.projections import Linear, Projections, projections_of
from surgery.operators.softmax import flops_softmax


class GroupedQueryAttention(MixerConfig):
    """Full attention with `groups` key and value heads, each for heads / groups query heads; one is multi-query.

    Source: "GQA" (arXiv 2305.13245); inherited key and value heads are averaged within a group.

    Attributes:
        groups: key and value heads.
        backend: the kernel; see `surgery.operators.backends`.
    """

    kind: Literal["grouped_query"] = "grouped_query"
    groups: PositiveInt
    backend: Literal["auto", "torch", "flash-attn", "flash-attn-4"] = "auto"

    @override
    def build(self, dims: MixerDims) -> GroupedQueryMixer:
        """Return a new GroupedQueryMixer with random weights; RewriteError if the groups do not divide the heads."""
        return GroupedQueryMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> GroupedQueryCore:
        """Return a GroupedQueryCore; RewriteError if the groups do not divide the heads."""
        return GroupedQueryCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """Those of full attention; the averages that a core takes are not counted."""
        return flops_softmax(dims, pairs=batch * tokens * tokens)

    @override
    def flops_projections(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """4 N D E for queries and output, and 4 N D G K for keys and values, for each of the batch."""
        return 4 * batch * tokens * dims.dim * (dims.inner + self.groups * dims.head_dim)


class GroupedQueryCore(MixerCore):
    """Averages the key and value heads of each group, then attends; with one head a group already, just attends."""

    mixes_one_stream = False
    takes_mask = True

    def __init__(self, config: GroupedQueryAttention, dims: MixerDims) -> None:
        super().__init__(config, dims)
        if dims.heads % config.groups:
            raise RewriteError(
                f"grouped_query: {config.groups} groups do not divide {dims.heads} heads; choose a divisor"
            )
        self.groups = config.groups
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
        """Attend to all keys; keys and values have H or G heads: (B, H, N, K)."""
        k_BGMK, v_BGMK = (rearrange(x, "b (g h) m k -> b g h m k", g=self.groups).mean(2) for x in (k_BHMK, v_BHMK))
        run = kernel(self.backend, self.config.kind, q_BHNK, masked=mask is not None)
        if run is not None:
            return run(q_BHNK, k_BGMK, v_BGMK)
        return F.scaled_dot_product_attention(q_BHNK, k_BGMK, v_BGMK, attn_mask=mask, enable_gqa=True)

    @override
    def why_inexact(self) -> str | None:
        """Several heads share a key head."""
        return None if self.groups == self.dims.heads else f"{self.dims.heads} heads share {self.groups} key heads"


class GroupedQueryMixer(CoreMixer):
    """Grouped-query attention; to_k and to_v have G K rows."""

    @property
    @override
    def key_width(self) -> int:
        """G K."""
        assert isinstance(self.config, GroupedQueryAttention)
        return self.config.groups * self.dims.head_dim

    @override
    def take_keys(self, found: Projections) -> None:
        """Copy the average key and value head of each group."""
        for linear, target, name in ((found.key, self.to_k, "to_k"), (found.value, self.to_v, "to_v")):
            heads = [None if x is None else self._by_group(x) for x in (linear.weight, linear.bias)]
            weight, bias = (None if x is None else x.mean(1).flatten(0, 1) for x in heads)
            assert weight is not None
            Linear(weight, bias).copy_to(target, name)

    @override
    def why_inexact(self, attention: nn.Module) -> str | None:
        """The key or value heads of a group differ."""
        found = projections_of(attention)
        for name, linear in (("to_k", found.key), ("to_v", found.value)):
            parts = [self._by_group(x) for x in (linear.weight, linear.bias) if x is not None]
            if not all(torch.equal(x, x[:, :1].expand_as(x)) for x in parts):
                return f"the heads of {name} differ within a group"
        return None

    def _by_group(self, rows: Tensor) -> Tensor:
        """Rows of all heads as (G, heads of a group, K, ..); RewriteError if there are not as many."""
        if len(rows) != self.dims.inner:
            raise RewriteError(
                f"cannot inherit keys and values: they are {len(rows)} wide and the new operator has "
                f"{self.dims.inner}; build the operator with dims_of(attention)"
            )
        by_group: Tensor = rearrange(rows, "(g h k) ... -> g h k ...", g=self.core.groups, k=self.dims.head_dim)
        return by_group
