"""Sparse and linear attention in one: softmax over the blocks of keys that matter most, a state for all others.

Source: "SLA: Beyond Sparsity in Diffusion Transformers via Fine-Tunable Sparse-Linear Attention" (arXiv 2509.24006).

Shape legend: B batch, H heads, N tokens, K features of a head, E = H K, X = B * H, C tokens of a block, T blocks of
queries, S blocks of keys, P of them chosen.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.chunks import in_chunks
from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.linear import EPSILON
from surgery.operators.masks import added, hidden, key_weights, seen
from surgery.operators.mixer import MixerConfig, MixerCore
from surgery.operators.scan_core import at_least_single
from surgery.operators.softmax import flops_softmax

TOGETHER = 16
"""Blocks of queries whose chosen keys are gathered at a time: memory stays small, whatever the number of tokens."""


class SparseLinear(MixerConfig):
    """y = softmax attention over the chosen blocks + project(linear attention over all others).

    The `top` blocks of keys whose mean has the largest product with the mean of a block of queries are chosen for it.
    The rest goes through phi = softmax over features. `project`, one matrix for each head, starts at zero, so that
    training decides how much of the rest comes back. A sequence of no more than `top` blocks is attended to in full.

    Attributes:
        block: C, tokens of a block in raster order.
        top: P, blocks of keys for each block of queries.
    """

    kind: Literal["sparse_linear"] = "sparse_linear"
    block: PositiveInt = 64
    top: PositiveInt = 8

    @override
    def build(self, dims: MixerDims) -> SparseLinearMixer:
        """Return a new SparseLinearMixer with random projections."""
        return SparseLinearMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> SparseLinearCore:
        """Return a new SparseLinearCore, whose linear branch starts without effect."""
        return SparseLinearCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """Softmax over the chosen keys; for the others states, 4 N E K, N E for each of three more steps and 2 N E K to
        project; 2 T S E to choose and T P E (K + 1) to take the chosen ones out of the state."""
        blocks = math.ceil(tokens / self.block)
        if blocks <= self.top:
            return flops_softmax(dims, pairs=batch * tokens * tokens)
        rest = tokens * dims.inner * (6 * dims.head_dim + 3)
        choice = 2 * blocks**2 * dims.inner + blocks * self.top * dims.inner * (dims.head_dim + 1)
        return flops_softmax(dims, pairs=batch * tokens * self.top * self.block) + batch * (rest + choice)

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """The softmaxes of q and k, 6 N E for each of the batch."""
        return 0 if math.ceil(tokens / self.block) <= self.top else 6 * batch * tokens * dims.inner


class SparseLinearCore(MixerCore):
    """Both branches; `project` (H, K, K) is zero at first. Tokens of weight 0 are in no block's mean."""

    takes_mask = True

    def __init__(self, config: SparseLinear, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.block, self.top = config.block, config.top
        self.project = nn.Parameter(torch.zeros(dims.heads, dims.head_dim, dims.head_dim))

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
        """Both branches, each key by its weight: (B, H, N, K)."""
        weight_BHM1 = key_weights(mask, q_BHNK.shape[2], k_BHMK.shape[2], across=self.dims.across)
        q_BHNK, k_BHMK, v_BHMK = (hidden(x, weight_BHM1) for x in (q_BHNK, k_BHMK, v_BHMK))
        if q_BHNK.shape[2] <= self.block * self.top:
            seen_BH1M = None if weight_BHM1 is None else added(weight_BHM1, q_BHNK)
            return F.scaled_dot_product_attention(q_BHNK, k_BHMK, v_BHMK, attn_mask=seen_BH1M)
        q_XNK, k_XNK, v_XNK = (x.flatten(0, 1) for x in (q_BHNK, k_BHMK, v_BHMK))
        weight = torch.ones_like(k_BHMK[..., :1], dtype=torch.bool) if weight_BHM1 is None else weight_BHM1
        weight_XN1 = weight.expand(*k_BHMK.shape[:3], 1).flatten(0, 1)
        blocks = _Blocks(q_XNK, k_XNK, v_XNK, weight_XN1, self.block, self.top)
        near_BHNK, far_BHNK = blocks.near().view(q_BHNK.shape), blocks.far().view(q_BHNK.shape)
        return near_BHNK + far_BHNK @ self.project


class SparseLinearMixer(CoreMixer):
    """Sparse and linear attention between projections."""


class _Blocks:
    """Queries, keys and values in blocks, and which blocks of keys are chosen for each block of queries."""

    def __init__(self, q_XNK: Tensor, k_XNK: Tensor, v_XNK: Tensor, weight_XN1: Tensor, block: int, top: int) -> None:
        self.tokens, self.block = q_XNK.shape[1], block
        self.q, self.k, self.v = (in_chunks(x, block) for x in (q_XNK, k_XNK, v_XNK))
        self.weight = in_chunks(weight_XN1, block)
        with torch.no_grad():
            count_XS1 = seen(self.weight).sum(2)
            means = [x.sum(2) / count_XS1.clamp(min=1) for x in (self.q, self.k)]
            scores_XTS = (means[0] @ means[1].mT).masked_fill(count_XS1.mT == 0, -torch.inf)
            self.chosen_XTP = scores_XTS.topk(top, dim=2).indices
            sequence_X11 = torch.arange(len(q_XNK), device=q_XNK.device).view(-1, 1, 1)
            near_XT1 = count_XS1[sequence_X11, self.chosen_XTP].sum(2)
            self.has_rest_XT11 = (count_XS1.sum(1, keepdim=True) > near_XT1).unsqueeze(3)

    def near(self) -> Tensor:
        """Softmax attention over the chosen blocks: (X, N, K)."""
        pieces = zip(torch.split(self.q, TOGETHER, 1), torch.split(self.chosen_XTP, TOGETHER, 1), strict=True)
        attended = [self._attend(q_XTCK, chosen_XTP) for q_XTCK, chosen_XTP in pieces]
        return torch.cat(attended, 1).flatten(1, 2)[:, : self.tokens]

    def _attend(self, q_XTCK: Tensor, chosen_XTP: Tensor) -> Tensor:
        sequence_X11 = torch.arange(len(q_XTCK), device=q_XTCK.device).view(-1, 1, 1)
        k_XTJK, v_XTJK, weight_XTJ1 = (x[sequence_X11, chosen_XTP].flatten(2, 3) for x in (self.k, self.v, self.weight))
        return F.scaled_dot_product_attention(q_XTCK, k_XTJK, v_XTJK, attn_mask=added(weight_XTJ1, q_XTCK))

    def far(self) -> Tensor:
        """Linear attention over all other blocks: (X, N, K), in float32 at least, then rounded."""
        exact = at_least_single(self.q)
        phi_q, phi_k = (x.to(exact).softmax(3) for x in (self.q, self.k))
        # A column of ones beside v gives the denominator by the same products; what is no token counts nowhere.
        v_XSCK1 = F.pad(self.v.to(exact), (0, 1), value=1.0) * self.weight
        states_XSKK1 = phi_k.mT @ v_XSCK1
        sequence_X1 = torch.arange(len(self.q), device=self.q.device).view(-1, 1)
        rest_XTKK1 = states_XSKK1.sum(1, keepdim=True).expand_as(states_XSKK1)
        for chosen_XT in self.chosen_XTP.unbind(2):
            rest_XTKK1 = rest_XTKK1 - states_XSKK1[sequence_X1, chosen_XT]
        y_XTCK1 = phi_q @ rest_XTKK1
        # Without a rest both are what rounding has left of nothing.
        y_XTCK = (y_XTCK1[..., :-1] / (y_XTCK1[..., -1:] + EPSILON)).masked_fill(~self.has_rest_XT11, 0.0)
        return y_XTCK.flatten(1, 2)[:, : self.tokens].to(self.v.dtype)
