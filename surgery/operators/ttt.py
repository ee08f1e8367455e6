"""Test-time training: the state is a small model, which every chunk of tokens trains to tell values from keys.

Sources: "Learning to (Learn at Test Time): RNNs with Expressive Hidden States" (arXiv 2407.04620), for the linear inner
model and the rate of each token; "ViT3: Unlocking Test-Time Training in Vision" (arXiv 2512.01643), for the gated one,
and "Test-Time Training Done Right" (arXiv 2505.23884), for what keeps its weights from growing.

Shape legend: B batch, H heads, N tokens, K features of a head, E = H K, C tokens of a chunk, P matrices (K, K) of an
inner model, X = B, or twice that both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.mixer import MixerConfig
from surgery.operators.scan_core import ScanCore, at_least_single, head_dot


class TTT(MixerConfig):
    """y = norm(f(q)), where each chunk of tokens has moved f by one step of gradient descent on |f(k) - v|^2 / 2.

    Queries and keys are filtered, as values are, and normalised to length 1; a token's rate follows from its key, and the
    step is the mean over the chunk. If causal, a token is read with what those up to itself have taught. Else it is read
    with what its whole chunk has, a second pass runs from the last chunk to the first, and both are added. The columns of
    a gated model keep their first lengths from chunk to chunk, as its product of two maps would outgrow every bound.

    Attributes:
        inner: f, "linear", x W, or "gated", (x W) * silu(x U).
        chunk: C.
        kernel: taps of the filters on q, k and v.
        causal: whether a token sees none that come later.
    """

    kind: Literal["ttt"] = "ttt"
    inner: Literal["linear", "gated"] = "linear"
    chunk: PositiveInt = 64
    kernel: PositiveInt = 4
    causal: bool = False

    @override
    def build(self, dims: MixerDims) -> TTTMixer:
        """Return a new TTTMixer with random projections."""
        return TTTMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> TTTCore:
        """Return a new TTTCore, whose filters start as the identity."""
        return TTTCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """For each of the batch, each pass and each matrix of f 6 N E K: of keys, of their gradients, and of queries; if
        causal 4 N E C more, for what a chunk's tokens teach each other."""
        matrices = MATRICES[self.inner]
        if self.causal:
            return batch * tokens * dims.inner * (6 * matrices * dims.head_dim + 2 * (1 + matrices) * self.chunk)
        return 2 * batch * tokens * dims.inner * 6 * matrices * dims.head_dim

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """The filters 6 N E kernel, the lengths of q and k 6 N E and the rates 2 N E, for each of the batch."""
        return batch * tokens * dims.inner * (6 * self.kernel + 8)


MATRICES = {"linear": 1, "gated": 2}
"""Of K x K that an inner model has."""


class TTTCore(ScanCore):
    """One inner model for each head; `inner` (P, H, K, K) are the weights that each sequence starts from."""

    def __init__(self, config: TTT, dims: MixerDims) -> None:
        super().__init__(config, dims, kernel=config.kernel, causal=config.causal)
        matrices, width = MATRICES[config.inner], dims.head_dim
        self.chunk = config.chunk
        self.inner = nn.Parameter(torch.randn(matrices, dims.heads, width, width) * width**-0.5)
        self.rate_weight = nn.Parameter(torch.zeros(dims.heads, width))
        self.rate_bias = nn.Parameter(torch.full((dims.heads,), math.log(math.e - 1)))

    @override
    def scan(self, q_BHNK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor, weight_BHN1: Tensor | None = None) -> Tensor:
        """What the inner models make of the queries, forth, or forth and back: (B, H, N, K). A key of zeros teaches
        nothing."""
        exact = at_least_single(v_BHNK)
        q, k = (F.normalize(x.to(exact), dim=3, eps=1e-6) for x in (q_BHNK, k_BHNK))
        rate_BHN = F.softplus(head_dot(k_BHNK, self.rate_weight) + self.rate_bias.to(exact).unsqueeze(1))
        sequences = [q, k, v_BHNK.to(exact), rate_BHN.unsqueeze(3)]
        if self.causal:
            return self._pass(*sequences).to(v_BHNK.dtype)
        forth, back = self._pass(*(torch.cat([x, x.flip(2)]) for x in sequences)).chunk(2)
        return (forth + back.flip(2)).to(v_BHNK.dtype)

    def _pass(self, q_XHNK: Tensor, k_XHNK: Tensor, v_XHNK: Tensor, rate_XHN1: Tensor) -> Tensor:
        """From the first chunk to the last: (X, H, N, K)."""
        size = self.chunk if self.causal else min(self.chunk, q_XHNK.shape[2])
        weights = first = self.inner.to(q_XHNK.dtype).unbind(0)
        results = []
        for q, k, v, rate in zip(
            *(torch.split(x, size, 2) for x in (q_XHNK, k_XHNK, v_XHNK, rate_XHN1 / size)), strict=True
        ):
            taught = [rate * slope for slope in slopes(k, v, weights)]
            learned = [weight - k.mT @ slope for weight, slope in zip(weights, taught, strict=True)]
            if len(first) > 1:
                learned = [_as_long_as(weight, old) for weight, old in zip(learned, first, strict=True)]
            if self.causal:
                seen = (q @ k.mT).tril()
                results.append(_model(*(q @ w - seen @ slope for w, slope in zip(weights, taught, strict=True))))
            else:
                results.append(_model(*(q @ weight for weight in learned)))
            weights = tuple(learned)
        return torch.cat(results, 2)


class TTTMixer(CoreMixer):
    """Test-time training between projections."""


def slopes(k_XHCK: Tensor, v_XHCK: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of |f(k) - v|^2 / 2 with respect to k W, for each matrix W (X, H, K, K) of f: (X, H, C, K)."""
    mapped, *gates = (k_XHCK @ weight for weight in weights)
    error = _model(mapped, *gates) - v_XHCK
    if not gates:
        return [error]
    gate = gates[0]
    share = gate.sigmoid()
    return [error * F.silu(gate), error * mapped * share * (1 + gate * (1 - share))]


def _as_long_as(weight: Tensor, first: Tensor) -> Tensor:
    """A matrix whose columns have the lengths of those of `first`."""
    length: Tensor = torch.linalg.vector_norm(first, dim=-2, keepdim=True)
    return F.normalize(weight, dim=-2) * length


def _model(mapped: Tensor, *gates: Tensor) -> Tensor:
    """f, given its input times each of its matrices."""
    return mapped * F.silu(gates[0]) if gates else mapped
