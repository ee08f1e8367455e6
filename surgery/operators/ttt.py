"""Test-time training: the state is a small model, which every chunk of tokens trains to tell values from keys.

Sources: "Learning to (Learn at Test Time): RNNs with Expressive Hidden States" (arXiv 2407.04620), for the linear inner
model and the rate of each token; "ViT3: Unlocking Test-Time Training in Vision" (arXiv 2512.01643), for the gated one,
and "Test-Time Training Done Right" (arXiv 2505.23884), for what keeps its weights from growing.

Shape legend: B batch, H heads, N tokens, K features of a head, E = H K, C tokens of a chunk, P matrices (K, K) of an
inner model, X = B H.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.chunks import in_chunks, in_segments, states
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
        sequences = [x.flatten(0, 1) for x in (q, k, v_BHNK.to(exact), rate_BHN.unsqueeze(3))]
        if self.causal:
            y_XNK = self._pass(*sequences)
        elif len(self.inner) == 1:
            y_XNK = self._pass(*sequences) + self._pass(*sequences, backwards=True)
        else:
            # It goes from chunk to chunk, which takes as long for one pass as for two at once.
            forth, back = self._pass(*(torch.cat([x, x.flip(1)]) for x in sequences)).chunk(2)
            y_XNK = forth + back.flip(1)
        return y_XNK.view(v_BHNK.shape).to(v_BHNK.dtype)

    def _pass(self, *sequences: Tensor, backwards: bool = False) -> Tensor:
        """From the first chunk to the last, or a linear model from the last to the first: (X, N, K)."""
        heads, tokens = self.inner.shape[1], sequences[0].shape[1]
        size = self.chunk if self.causal else min(self.chunk, tokens)
        missing = -tokens % size
        # Chunks are full but for the one that comes last.
        padding = (0, 0, missing, 0) if backwards else (0, 0, 0, missing)
        first_PXKK = self.inner.to(sequences[0].dtype).repeat(1, len(sequences[0]) // heads, 1, 1)
        scan = partial(linear_scan, backwards=backwards) if len(first_PXKK) == 1 else gated_scan
        y_XNK = in_segments(
            partial(scan, size=size, causal=self.causal),
            [F.pad(x, padding) if missing else x for x in sequences],
            torch.cat(first_PXKK.unbind(0), 2),
            size,
            backwards=backwards,
        )
        return y_XNK[:, padding[2] : padding[2] + tokens]


class TTTMixer(CoreMixer):
    """Test-time training between projections."""


def linear_scan(
    q: Tensor, k: Tensor, v: Tensor, rate: Tensor, weight: Tensor, *, size: int, causal: bool, backwards: bool
) -> tuple[Tensor, Tensor]:
    """What f(x) = x W makes of the queries (X, N, K), and the W that they leave.

    A step of gradient descent, W - k^T rate (k W - v), is linear in W, so the W of all chunks follow from `states`.

    Args:
        q, k, v: (X, N, K), of whole chunks.
        rate: (X, N, 1).
        weight: (X, K, K), the W to start from.
        size: C.
        causal: whether a token is read with what those up to itself have taught.
        backwards: from the last chunk to the first.
    """
    q, k, v, rate = (in_chunks(x, size) for x in (q, k, v, rate / size))
    taught = (rate * k).mT
    kept = torch.eye(k.shape[3], dtype=k.dtype, device=k.device) - taught @ k
    before, last = states(kept, taught @ v, weight, torch.matmul, backwards=backwards)
    if causal:
        y = q @ before - (q @ k.mT).tril() @ (rate * (k @ before - v))
    elif backwards:
        y = q @ torch.cat([last.unsqueeze(1), before[:, :-1]], 1)
    else:
        y = q @ torch.cat([before[:, 1:], last.unsqueeze(1)], 1)
    return y.flatten(1, 2), last


def gated_scan(
    q: Tensor, k: Tensor, v: Tensor, rate: Tensor, weights: Tensor, *, size: int, causal: bool
) -> tuple[Tensor, Tensor]:
    """What f(x) = (x W) * silu(x U) makes of the queries, as `linear_scan`; W and U stand side by side, (X, K, 2 K).

    What rests on the chunk before stays in a loop.
    """
    q, k, v, rate = (in_chunks(x, size) for x in (q, k, v, rate / size))
    length = torch.linalg.vector_norm(weights, dim=1, keepdim=True)
    found, slopes = [weights], []
    for k_m, less_m, taught_m in zip(k.unbind(1), (-v).unbind(1), (rate * k).mT.unbind(1), strict=True):
        slopes.append(_slopes(k_m @ found[-1], less_m))
        learned = torch.baddbmm(found[-1], taught_m, slopes[-1], alpha=-1)
        found.append(F.normalize(learned, dim=1) * length)
    if causal:
        seen = (q @ k.mT).tril() @ (rate * torch.stack(slopes, 1))
        y = _gated(q @ torch.stack(found[:-1], 1) - seen)
    else:
        y = _gated(q @ torch.stack(found[1:], 1))
    return y.flatten(1, 2), found[-1]


def _slopes(mapped_XCJ: Tensor, less_XCK: Tensor) -> Tensor:
    """The gradient of |f(k) - v|^2 / 2 with respect to k W and k U side by side: (X, C, 2 K).

    Args:
        mapped_XCJ: these two products.
        less_XCK: -v.
    """
    mapped, gate = mapped_XCJ.chunk(2, -1)
    share = gate.sigmoid()
    silu = gate * share
    error = torch.addcmul(less_XCK, mapped, silu)
    # The derivative of silu: silu + share (1 - silu).
    return torch.cat([error * silu, error * mapped * torch.lerp(silu, silu.new_ones(()), share)], -1)


def _gated(mapped: Tensor) -> Tensor:
    """f, given its input times both of its matrices."""
    mapped, gate = mapped.chunk(2, -1)
    return mapped * F.silu(gate)
