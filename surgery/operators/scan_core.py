"""What cores that scan the tokens share: filters before, decays that follow from keys, a norm of each head after.

Shape legend: B batch, H heads, N tokens, K features of a head, E = H K, F = 3 E.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.convolution import TokenConvolution
from surgery.operators.dims import MixerDims
from surgery.operators.masks import hidden, key_weights, weighed
from surgery.operators.mixer import MixerConfig, MixerCore
from surgery.operators.softmax import finite

RATES = (1.0, 16.0)
"""Decay rates that heads start with, drawn evenly, as in the published code (state-spaces/mamba: `A_init_range`)."""
STEPS = (1e-3, 1e-1)
"""Steps that heads start with, drawn evenly in their logarithm, as there (`dt_min`, `dt_max`)."""


class ScanCore(MixerCore):
    """norm(scan(q, k, v)) with filters on q, k and v that start as the identity.

    Nothing bounds a sum of scores without softmax, so outputs are normalised head by head, as in "Retentive Network"
    (arXiv 2307.08621).
    """

    takes_mask = True

    def __init__(self, config: MixerConfig, dims: MixerDims, *, kernel: int, causal: bool) -> None:
        super().__init__(config, dims)
        self.causal, self.kernel = causal, kernel
        self.conv1d = TokenConvolution(3 * dims.inner, kernel, causal=causal)
        self.conv1d.start_as_identity()
        self.norm = nn.RMSNorm(dims.head_dim, eps=1e-5)

    @abstractmethod
    def scan(self, q_BHNK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor, weight_BHN1: Tensor | None = None) -> Tensor:
        """What is normalised: (B, H, N, K). A token of weight 0 has zeros for q, k and v, and changes no state."""

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
        weight_BHN1 = key_weights(mask, q_BHNK.shape[2], k_BHMK.shape[2], across=self.dims.across)
        qkv = (hidden(q_BHNK, weight_BHN1), hidden(k_BHMK, weight_BHN1), weighed(v_BHMK, weight_BHN1))
        qkv_BNF = torch.cat([rearrange(x, "b h n k -> b n (h k)") for x in qkv], dim=2)
        if not self.causal:
            return self._scanned(qkv_BNF, weight_BHN1)
        # Within a chunk, what a token does not see has the weight 0, and 0 times NaN is NaN.
        finite_BN1 = finite(qkv_BNF)
        unseen_B1N1 = (finite_BN1.logical_not().cumsum(1) > 0).unsqueeze(1)
        return self._scanned(qkv_BNF.masked_fill(~finite_BN1, 0.0), weight_BHN1).masked_fill(unseen_B1N1, torch.nan)

    def _scanned(self, qkv_BNF: Tensor, weight_BHN1: Tensor | None) -> Tensor:
        qkv = rearrange(self.conv1d(qkv_BNF), "b n (three h k) -> three b h n k", three=3, k=self.dims.head_dim)
        # The filters have brought something of their neighbours to those that are hidden.
        q_BHNK, k_BHNK, v_BHNK = (hidden(x, weight_BHN1) for x in qkv)
        normed_BHNK: Tensor = self.norm(self.scan(q_BHNK, k_BHNK, v_BHNK, weight_BHN1))
        return normed_BHNK


class DecayingCore(ScanCore):
    """A scan whose state fades as the tokens say."""

    def __init__(self, config: MixerConfig, dims: MixerDims, *, kernel: int, causal: bool) -> None:
        super().__init__(config, dims, kernel=kernel, causal=causal)
        self.A_log = nn.Parameter(log_rates(dims.heads))
        self.dt_bias = nn.Parameter(step_bias(dims.heads))
        self.dt_weight = nn.Parameter(torch.zeros(dims.heads, dims.head_dim))

    def steps(self, k_BHNK: Tensor, weight_BHN1: Tensor | None) -> tuple[Tensor, Tensor]:
        """The step of each token, softplus(w . k + bias) with w zero at first, and the logarithm of what it leaves of the
        state: (B, H, N) each; zeros for tokens of weight 0."""
        exact = at_least_single(k_BHNK)
        step_BHN = F.softplus(head_dot(k_BHNK, self.dt_weight) + self.dt_bias.to(exact).unsqueeze(1))
        step_BHN = hidden(step_BHN.unsqueeze(3), weight_BHN1).squeeze(3)
        return step_BHN, -step_BHN * self.A_log.to(exact).exp().unsqueeze(1)


def head_dot(x_BHNK: Tensor, weight_HK: Tensor) -> Tensor:
    """The product of each token's features with a vector of its head: (B, H, N), in float32 at least."""
    exact = at_least_single(x_BHNK)
    return torch.einsum("bhnk,hk->bhn", x_BHNK.to(exact), weight_HK.to(exact))


def log_rates(heads: int) -> Tensor:
    """Logarithms of the decay rates that heads start with: (H,)."""
    return torch.empty(heads).uniform_(*RATES).log()


def step_bias(heads: int) -> Tensor:
    """What softplus makes the first steps of: (H,)."""
    least, most = STEPS
    step_H = torch.empty(heads).uniform_(math.log(least), math.log(most)).exp()
    return step_H.expm1().log()


def at_least_single(x: Tensor) -> torch.dtype:
    """The dtype of steps, decays and states: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)
