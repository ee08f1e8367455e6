"""Linear attention: the state phi(k)^T v is formed once, so that time and memory are linear in the number of tokens.

Shape legend: B batch, H heads, N queries, M keys, K features of a head, F features of a head after the feature map.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.convolution import TokenConvolution
from surgery.operators.core_mixer import CoreMixer
from surgery.operators.dims import MixerDims
from surgery.operators.grid import Axes, Grid, Text, apart, on_grid, rank_of, require_grid, together
from surgery.operators.masks import hidden, key_weights, seen, weighed
from surgery.operators.mixer import MixerConfig, MixerCore

# Added to the denominator, as in SANA: a query without any active feature gives zeros.
EPSILON = 1e-15


class LinearAttention(MixerConfig):
    """y_i = phi(q_i) (sum_j phi(k_j)^T v_j) / (phi(q_i) sum_j phi(k_j)), every token seeing every other one.

    Sources: "Transformers are RNNs" (arXiv 2006.16236), with phi = ReLU as in EfficientViT and SANA ("relu"); "Hedgehog"
    (arXiv 2402.04347), with phi(x) = [softmax(x W), softmax(-x W)] and W learned for each head ("learned"); "LiT"
    (arXiv 2501.12976) adds a depthwise convolution of v to the output.

    Attributes:
        features: the feature map phi.
        centre: whether the mean of all keys is taken from each first. Softmax does not see what keys have in common, a
            feature map does.
        depthwise: taps of that convolution along each axis; it starts without effect. None leaves it out.
        axes: how many axes it spans; None means those of `grid`, or the raster order without one.
        grid: rows and columns, or frames, rows and columns; None with 2 axes means a square.
        text: where tokens stand that lie on no grid, as in joint attention; the convolution leaves them out.
    """

    kind: Literal["linear_attention"] = "linear_attention"
    features: Literal["relu", "learned"] = "relu"
    centre: bool = False
    depthwise: PositiveInt | None = None
    axes: Axes | None = None
    grid: Grid | None = None
    text: Text | None = None

    @property
    def rank(self) -> int:
        """How many axes the convolution spans."""
        return rank_of(self.axes, self.grid)

    @model_validator(mode="after")
    def _has_a_layout(self) -> Self:
        require_grid(self.grid, self.text)
        if self.rank > 1 and self.depthwise is None:
            raise ValueError("axes and grid need depthwise, e.g. depthwise=5")
        return self

    @override
    def build(self, dims: MixerDims) -> LinearAttentionMixer:
        """Return a new LinearAttentionMixer with random projections."""
        return LinearAttentionMixer(self, dims)

    @override
    def core(self, dims: MixerDims) -> LinearAttentionCore:
        """Return a new LinearAttentionCore, whose W start as the identity and whose convolution starts as zero."""
        return LinearAttentionCore(self, dims)

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """N (4 F E + 3 F H + E) for each of the batch, 2 N E to centre, and N E (2 taps + 1) for the convolution."""
        features = dims.head_dim * (2 if self.features == "learned" else 1)
        state = 4 * features * dims.inner + 3 * features * dims.heads + dims.inner * (3 if self.centre else 1)
        convolution = (2 * self.depthwise**self.rank + 1) * dims.inner if self.depthwise else 0
        total: int = batch * (tokens * state + on_grid(tokens, self.grid, self.text) * convolution)
        return total

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """For learned features of q and of k 2 N E K for W and 3 for each of the 2 N E that a softmax gives."""
        return 2 * batch * tokens * dims.inner * (2 * dims.head_dim + 6) if self.features == "learned" else 0


class LinearAttentionCore(MixerCore):
    """Linear attention, for cross-attention too unless there is a convolution."""

    mixes_one_stream = False
    takes_mask = True

    def __init__(self, config: LinearAttention, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.mixes_one_stream = config.depthwise is not None  # type: ignore[misc]
        learned = config.features == "learned"
        self.phi_q: nn.Module = LearnedFeatures(dims) if learned else nn.ReLU()
        self.phi_k: nn.Module = LearnedFeatures(dims) if learned else nn.ReLU()
        self.centre, self.grid, self.text = config.centre, config.grid, config.text
        self.depthwise: TokenConvolution | None = None
        if config.depthwise is not None:
            self.depthwise = TokenConvolution(dims.inner, config.depthwise, axes=config.rank, grid=config.grid)
            self.depthwise.start_as_zero()

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
        """Attend to all keys, each by its weight: (B, H, N, K).

        Raises:
            RewriteError: the mask differs between queries.
        """
        weight_BHM1 = key_weights(mask, q_BHNK.shape[2], k_BHMK.shape[2], across=self.dims.across)
        k_BHMK, v_BHMK = hidden(k_BHMK, weight_BHM1), hidden(v_BHMK, weight_BHM1)
        phi_k_BHMF: Tensor = self.phi_k(centred(k_BHMK, weight_BHM1) if self.centre else k_BHMK)
        y_BHNK = linear_attention(self.phi_q(q_BHNK), weighed(phi_k_BHMF, weight_BHM1), v_BHMK)
        if self.depthwise is None:
            return y_BHNK
        image_BNE, text_BTE = apart(rearrange(v_BHMK, "b h n k -> b n (h k)"), grid or self.grid, self.text)
        extra_BNE = together(self.depthwise(image_BNE, grid), torch.zeros_like(text_BTE), self.text)
        extra_BHNK: Tensor = rearrange(extra_BNE, "b n (h k) -> b h n k", h=v_BHMK.shape[1])
        return extra_BHNK + y_BHNK


class LinearAttentionMixer(CoreMixer):
    """Linear attention between projections."""


class LearnedFeatures(nn.Module):
    """phi(x) = [softmax(x W), softmax(-x W)] with one W for each head: (B, H, N, K) -> (B, H, N, 2 K)."""

    def __init__(self, dims: MixerDims) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(dims.head_dim).repeat(dims.heads, 1, 1))

    def forward(self, x_BHNK: Tensor) -> Tensor:
        """The features, all positive."""
        mapped_BHNK: Tensor = x_BHNK @ self.weight
        return torch.cat([mapped_BHNK.softmax(3), (-mapped_BHNK).softmax(3)], dim=3)


def linear_attention(phi_q_BHNF: Tensor, phi_k_BHMF: Tensor, v_BHMK: Tensor) -> Tensor:
    """phi(q) (phi(k)^T v) / (phi(q) sum phi(k)): (B, H, N, K).

    Half precision is summed in float32, under autocast too: the state holds as many terms as there are keys.
    """
    exact = torch.promote_types(v_BHMK.dtype, torch.float32)
    with _no_autocast(v_BHMK.device.type):
        # A column of ones next to v gives the denominator by the same two products.
        v_BHMK1 = F.pad(v_BHMK.to(exact), (0, 1), value=1.0)
        y_BHNK1 = phi_q_BHNF.to(exact) @ (phi_k_BHMF.to(exact).transpose(2, 3) @ v_BHMK1)
        y_BHNK = y_BHNK1[..., :-1] / (y_BHNK1[..., -1:] + EPSILON)
    return y_BHNK.to(v_BHMK.dtype)


def centred(k_BHMK: Tensor, weight_BHM1: Tensor | None = None) -> Tensor:
    """Keys less the mean of those that are seen, taken in float32 at least; those that are not are zeros."""
    exact = k_BHMK.to(torch.promote_types(k_BHMK.dtype, torch.float32))
    if weight_BHM1 is None:
        return (exact - exact.mean(2, keepdim=True)).to(k_BHMK.dtype)
    counts_BH11 = seen(weight_BHM1).sum(2, keepdim=True).clamp(min=1)
    return (exact - exact.sum(2, keepdim=True) / counts_BH11).to(k_BHMK.dtype)


def _no_autocast(device: str) -> AbstractContextManager[object]:
    """A context without autocast, on devices that have it: the meta device has not."""
    return torch.autocast(device, enabled=False) if _has_autocast(device) else nullcontext()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_autocast(device: str) -> bool:
    """What PyTorch 2.11 cannot compile."""
    return torch.amp.is_autocast_available(device)
