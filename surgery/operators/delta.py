"""Gated delta networks: a memory of keys and values that is corrected token by token.

Source: "Gated Delta Networks: Improving Mamba2 with Delta Rule" (arXiv 2412.06464). Here gates follow from a token's key
instead of the token, so that the same core stands in attention of any kind.

Shape legend: B batch, H heads, N tokens, K features of a head, E = H K, X = B * H.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.core_mixer import CoreMixer
from surgery.operators.delta_rule import gated_delta_rule
from surgery.operators.dims import MixerDims
from surgery.operators.mixer import MixerConfig
from surgery.operators.scan_core import DecayingCore, head_dot


class GatedDelta(MixerConfig):
    """y = norm(S^T q), where S holds values by keys: each token fades it, then replaces what it holds under its key.

    Queries and keys are filtered, as values are, and normalised to length 1. If not causal, a second scan runs from the
    last token to the first with the same weights, and both are added.

    Attributes:
        kernel: taps of the filters on q, k and v.
        causal: whether a token sees none that come later.
    """

    kind: Literal["gated_delta"] = "gated_delta"
    kernel: PositiveInt = 4
    causal: bool = False

    @override
    def build(self, dims: MixerDims) -> GatedDeltaMixer:
        """Return a new GatedDeltaMixer with random projections."""
        return GatedDeltaMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> GatedDeltaCore:
        """Return a new GatedDeltaCore, whose filters start as the identity and whose gates do not depend on keys."""
        return GatedDeltaCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """For each of the batch and each scan N E (7 K + 2): the state fades, is read under k, changed, and read by q."""
        scans = 1 if self.causal else 2
        return scans * batch * tokens * dims.inner * (7 * dims.head_dim + 2)

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """The filters 6 N E kernel, the lengths of q and k 6 N E and both gates 4 N E, for each of the batch."""
        return batch * tokens * dims.inner * (6 * self.kernel + 10)


class GatedDeltaCore(DecayingCore):
    """The delta rule of each head; `beta_weight` starts at zero, so that half of what a key holds is replaced."""

    def __init__(self, config: GatedDelta, dims: MixerDims) -> None:
        super().__init__(config, dims, kernel=config.kernel, causal=config.causal)
        self.beta_weight = nn.Parameter(torch.zeros(dims.heads, dims.head_dim))
        self.beta_bias = nn.Parameter(torch.zeros(dims.heads))

    @override
    def scan(self, q_BHNK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor, weight_BHN1: Tensor | None = None) -> Tensor:
        """The delta rule, forth, or forth and back: (B, H, N, K). Under a key of zeros nothing is stored."""
        _, log_BHN = self.steps(k_BHNK, weight_BHN1)
        beta_BHN = (head_dot(k_BHNK, self.beta_weight) + self.beta_bias.to(log_BHN.dtype).unsqueeze(1)).sigmoid()
        unit = (F.normalize(x.to(log_BHN.dtype), dim=3, eps=1e-6) for x in (q_BHNK, k_BHNK))
        sequences = [x.flatten(0, 1) for x in (*unit, v_BHNK.to(log_BHN.dtype), beta_BHN, log_BHN)]
        y_XNK = gated_delta_rule(*sequences)
        if not self.causal:
            y_XNK = y_XNK + gated_delta_rule(*sequences, backwards=True)
        return y_XNK.view(v_BHNK.shape).to(v_BHNK.dtype)


class GatedDeltaMixer(CoreMixer):
    """The gated delta rule between projections."""
