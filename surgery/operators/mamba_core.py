"""The core of Mamba-2: a scan whose states hold keys and values that others have projected.

Source: "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality"
(arXiv 2405.21060): c, b and x of a state space model are q, k and v of an attention without softmax, under decays.
Outputs are normalised head by head, as in "Retentive Network" (arXiv 2307.08621), for nothing bounds the sum of scores.

Shape legend: B batch, H heads, N tokens, K features of a head, E = H K, X = B * H.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.base import MixerDims
from surgery.operators.convolution import TokenConvolution
from surgery.operators.core import Core
from surgery.operators.softmax import finite
from surgery.operators.state_space import state_space

if TYPE_CHECKING:
    from surgery.operators.mamba import Mamba2


class Mamba2Core(Core):
    """y = norm(scan(step * v, k, q) + skip * v): each head has a state of K x K and decays of its own.

    The filters on q, k and v start as the identity. A step follows from the token's key: softplus(w . k + bias), with w
    zero at first. `d_state`, `expand` and `head_dim` of the config are those of the attention here.
    """

    def __init__(self, config: Mamba2, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.causal, self.kernel = config.causal, config.kernel
        self.conv1d = TokenConvolution(3 * dims.inner, config.kernel, causal=config.causal)
        self.conv1d.start_as_identity()
        self.A_log = nn.Parameter(torch.empty(dims.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(dims.heads))
        step_H = torch.empty(dims.heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(step_H.expm1().log())  # the inverse of softplus
        self.dt_weight = nn.Parameter(torch.zeros(dims.heads, dims.head_dim))
        self.norm = nn.RMSNorm(dims.head_dim, eps=1e-5)

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
        """Return the normalised scan: (B, H, N, K). Steps and decays are in float32 at least."""
        heads = q_BHNK.shape[1]
        qkv_BNF = torch.cat([rearrange(x, "b h n k -> b n (h k)") for x in (q_BHNK, k_BHMK, v_BHMK)], dim=2)
        if not self.causal:
            return self._scanned(qkv_BNF, heads)
        # Within a chunk, what a token does not see has the weight 0, and 0 times NaN is NaN.
        finite_BN1 = finite(qkv_BNF)
        unseen_B1N1 = (finite_BN1.logical_not().cumsum(1) > 0).unsqueeze(1)
        return self._scanned(qkv_BNF.masked_fill(~finite_BN1, 0.0), heads).masked_fill(unseen_B1N1, torch.nan)

    def _scanned(self, qkv_BNF: Tensor, heads: int) -> Tensor:
        q_XNK, k_XNK, v_XNK = (
            rearrange(x, "b n (h k) -> (b h) n k", h=heads) for x in self.conv1d(qkv_BNF).chunk(3, dim=2)
        )
        exact = torch.promote_types(v_XNK.dtype, torch.float32)
        k_BHNK = k_XNK.to(exact).unflatten(0, (-1, heads))
        step_BHN = F.softplus(
            torch.einsum("bhnk,hk->bhn", k_BHNK, self.dt_weight.to(exact)) + self.dt_bias.unsqueeze(1)
        )
        log_BHN = -step_BHN * self.A_log.to(exact).exp().unsqueeze(1)
        entering_XNK = v_XNK * step_BHN.flatten(0, 1).unsqueeze(2).to(v_XNK.dtype)
        scale = q_XNK.shape[2] ** -0.5
        y_XN1K = state_space(
            entering_XNK.unsqueeze(2), log_BHN.flatten(0, 1).unsqueeze(2), k_XNK, q_XNK * scale, causal=self.causal
        )
        v_BHNK = v_XNK.unflatten(0, (-1, heads))
        y_BHNK: Tensor = torch.addcmul(y_XN1K.view(v_BHNK.shape), self.D.view(-1, 1, 1), v_BHNK)
        normed_BHNK: Tensor = self.norm(y_BHNK)
        return normed_BHNK

    @override
    def flops(self, batch: int, tokens: int) -> int:
        """6 N E kernel for the filters, 2 N E for the steps, and those of mixing, for each of the batch."""
        return batch * tokens * self.dims.inner * (6 * self.kernel + 2) + self.flops_mixing(batch, tokens)

    @override
    def flops_mixing(self, batch: int, tokens: int) -> int:
        """For each of the batch 2 N E K for a scan, two if not causal, and 7 N H for steps and decays, as of Mamba2."""
        scans = 1 if self.causal else 2
        return batch * tokens * (2 * scans * self.dims.inner * self.dims.head_dim + 7 * self.dims.heads)
