"""The Hyena family: gated short convolutions in place of attention.

Source: "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340), with kernel 4.

Shape legend: B batch, N tokens, D features of the stream, E = heads * head_dim features inside the mixer.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.base import MixerConfig, MixerDims, SequenceMixer
from surgery.operators.convolution import TokenConvolution
from surgery.operators.projections import projections_of


class _Hyena(MixerConfig):
    """y = out_proj(q * g(k * v)) with q, k, v = f(in_proj(x)), f and g being depthwise convolutions or nothing.

    Published: causal along the raster order, kernel 4. If not causal, the filters are centred: see
    TokenConvolution.
    """

    has_featuriser: ClassVar[bool]
    """Whether f is a convolution."""
    has_inner: ClassVar[bool]
    """Whether g is a convolution."""

    kernel: PositiveInt = 4
    causal: bool = False

    @abstractmethod
    @override
    def build(self, dims: MixerDims) -> HyenaMixer:
        """Return a new mixer with random weights; the inner filter starts as the identity."""

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """For each of the batch 2 N E for the two gates, and 2 N E kernel for an inner filter."""
        taps = self.kernel if self.has_inner else 0
        return batch * tokens * dims.inner * (2 + 2 * taps)

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """The filters on 3E channels: 6 N E kernel for each of the batch."""
        return 6 * batch * tokens * dims.inner * self.kernel if self.has_featuriser else 0


class HyenaSE(_Hyena):
    """Filters on q, k and v, and an inner one: y = out_proj(q * g(k * v)), q, k, v = f(in_proj(x))."""

    kind: Literal["hyena_se"] = "hyena_se"
    has_featuriser = True
    has_inner = True

    @override
    def build(self, dims: MixerDims) -> HyenaSEMixer:
        """Return a new HyenaSEMixer."""
        return HyenaSEMixer(self, dims)


class HyenaX(_Hyena):
    """Filters on q, k and v alone: y = out_proj(q * (k * v)), q, k, v = f(in_proj(x))."""

    kind: Literal["hyena_x"] = "hyena_x"
    has_featuriser = True
    has_inner = False

    @override
    def build(self, dims: MixerDims) -> HyenaXMixer:
        """Return a new HyenaXMixer."""
        return HyenaXMixer(self, dims)


class HyenaY(_Hyena):
    """An inner filter alone: y = out_proj(q * g(k * v)), q, k, v = in_proj(x)."""

    kind: Literal["hyena_y"] = "hyena_y"
    has_featuriser = False
    has_inner = True

    @override
    def build(self, dims: MixerDims) -> HyenaYMixer:
        """Return a new HyenaYMixer."""
        return HyenaYMixer(self, dims)


class HyenaMixer(SequenceMixer):
    """What the three forms share. `conv` is f on 3E channels and `inner` is g on E; either may be missing."""

    def __init__(self, config: _Hyena, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.in_proj = nn.Linear(dims.dim, 3 * dims.inner, bias=dims.qkv_bias)
        if config.has_featuriser:
            self.conv = TokenConvolution(3 * dims.inner, config.kernel, causal=config.causal)
        if config.has_inner:
            self.inner = TokenConvolution(dims.inner, config.kernel, causal=config.causal)
            self.inner.start_as_identity()
        self.out_proj = nn.Linear(dims.inner, dims.dim, bias=dims.out_bias)
        self._filters = [name for name in ("conv", "inner") if hasattr(self, name)]

    @override
    def mix(self, x_BND: Tensor, *, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return out_proj(q * g(k * v)): (B, N, D)."""
        qkv_BNF = self.in_proj(x_BND)
        q_BNE, k_BNE, v_BNE = (self.conv(qkv_BNF) if "conv" in self._filters else qkv_BNF).chunk(3, dim=2)
        kv_BNE = k_BNE * v_BNE
        y_BND: Tensor = self.out_proj(q_BNE * (self.inner(kv_BNE) if "inner" in self._filters else kv_BNE))
        return y_BND

    @override
    def take_projections(self, attention: nn.Module) -> None:
        """Copy q, k, v into in_proj and the output into out_proj; the filters start as the identity.

        Raises:
            RewriteError: the projections do not fit.
        """
        found = projections_of(attention)
        found.qkv.copy_to(self.in_proj, "to_q, to_k, to_v")
        found.out.copy_to(self.out_proj, "to_out[0]")
        for name in self._filters:
            getattr(self, name).start_as_identity()


class HyenaSEMixer(HyenaMixer):
    """Hyena-SE; a token sees 2 kernel - 1 tokens."""


class HyenaXMixer(HyenaMixer):
    """Hyena-X; a token sees `kernel` tokens."""


class HyenaYMixer(HyenaMixer):
    """Hyena-Y; a token sees `kernel` tokens."""
