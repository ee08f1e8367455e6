"""The Hyena family: gated short convolutions in place of attention.

Source: "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340), with kernel 4.

Shape legend: B batch, N tokens, D features of the stream, E = heads * head_dim features inside the mixer, F = 3 E,
H heads, K features of a head; a core has as many keys M as queries.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Self

import torch
from einops import rearrange
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import override

from surgery.operators.convolution import FilterBackend, TokenConvolution
from surgery.operators.dims import MixerDims
from surgery.operators.grid import Axes, Grid, Text, apart, on_grid, rank_of, require_grid, together
from surgery.operators.masks import hidden, key_weights, weighed
from surgery.operators.mixer import MixerConfig, MixerCore, SequenceMixer
from surgery.operators.projections import projections_of


class _Hyena(MixerConfig):
    """y = out_proj(q * g(k * v)) with q, k, v = f(in_proj(x)), f and g being depthwise convolutions or nothing.

    Published: causal along the raster order, kernel 4. If not causal, the filters are centred: see
    TokenConvolution. Over a grid of 2 or 3 axes they have kernel x kernel (x kernel) taps and are centred; no grid
    means a square.

    Attributes:
        kernel: taps along each axis.
        causal: whether a token sees none that come later; along the raster order only.
        axes: how many axes the filters span; None means those of `grid`, or the raster order without one.
        grid: rows and columns, or frames, rows and columns; None with 2 axes means a square.
        text: where tokens stand that lie on no grid, as in joint attention; they are gated, but not filtered.
        backend: the kernel of the filters; see `surgery.operators.backends`.
    """

    has_featuriser: ClassVar[bool]
    """Whether f is a convolution."""
    has_inner: ClassVar[bool]
    """Whether g is a convolution."""

    kernel: PositiveInt = 4
    causal: bool = False
    axes: Axes | None = None
    grid: Grid | None = None
    text: Text | None = None
    backend: FilterBackend = "auto"

    @property
    def rank(self) -> int:
        """How many axes the filters span."""
        return rank_of(self.axes, self.grid)

    @property
    def taps(self) -> int:
        """Of one filter."""
        taps: int = self.kernel**self.rank
        return taps

    def convolution(self, channels: int) -> TokenConvolution:
        """A new filter for each channel."""
        return TokenConvolution(
            channels, self.kernel, causal=self.causal, axes=self.rank, grid=self.grid, backend=self.backend
        )

    @model_validator(mode="after")
    def _has_a_layout(self) -> Self:
        require_grid(self.grid, self.text)
        if self.rank > 1 and self.causal:
            raise ValueError(f"causal needs the raster order, got {self.rank} axes")
        return self

    @override
    def core(self, dims: MixerDims) -> HyenaCore:
        """Return a new HyenaCore, whose filters start as the identity."""
        return HyenaCore(self, dims)

    @abstractmethod
    @override
    def build(self, dims: MixerDims) -> HyenaMixer:
        """Return a new mixer with random weights; the inner filter starts as the identity."""

    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """For each of the batch 2 N E for the two gates, and 2 N E for each tap of an inner filter."""
        filtered = on_grid(tokens, self.grid, self.text) * self.taps if self.has_inner else 0
        return 2 * batch * dims.inner * (tokens + filtered)

    @override
    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """The filters on 3E channels: 6 N E for each tap and each of the batch."""
        filtered = on_grid(tokens, self.grid, self.text) * self.taps if self.has_featuriser else 0
        return 6 * batch * dims.inner * filtered


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


class _Filters(nn.Module):
    """The gates and their filters: `conv` is f on 3E channels and `inner` is g on E; either may be missing."""

    conv: TokenConvolution | None
    inner: TokenConvolution | None

    def add_filters(self, config: _Hyena, inner: int) -> None:
        """Build them; the inner one starts as the identity."""
        self.grid, self.text = config.grid, config.text
        self.conv = config.convolution(3 * inner) if config.has_featuriser else None
        self.inner = config.convolution(inner) if config.has_inner else None
        if self.inner is not None:
            self.inner.start_as_identity()

    def start_as_identity(self) -> None:
        """Make both filters return their input."""
        for convolution in (self.conv, self.inner):
            if convolution is not None:
                convolution.start_as_identity()

    def gate(self, qkv_BNF: Tensor, grid: tuple[int, ...] | None, weight_BNE: Tensor | None = None) -> Tensor:
        """Return q * g(k * v) with q, k, v = f(qkv): (B, N, E); tokens of weight 0 are zeros to both filters."""
        q_BNE, k_BNE, v_BNE = self._filtered(self.conv, qkv_BNF, grid).chunk(3, dim=2)
        return q_BNE * self._filtered(self.inner, weighed(k_BNE * v_BNE, weight_BNE), grid)

    def _filtered(self, convolution: TokenConvolution | None, x_BNC: Tensor, grid: tuple[int, ...] | None) -> Tensor:
        if convolution is None:
            return x_BNC
        image_BNC, text_BTC = apart(x_BNC, grid or self.grid, self.text)
        return together(convolution(image_BNC, grid), text_BTC, self.text)


class HyenaCore(_Filters, MixerCore):
    """The gates between q, k and v of all heads side by side; filters start as the identity."""

    takes_mask = True

    def __init__(self, config: _Hyena, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.add_filters(config, dims.inner)
        self.start_as_identity()

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
        """Return q * g(k * v), as in the whole mixer, each token of k * v by its weight: (B, H, N, K)."""
        weight_BHM1 = key_weights(mask, q_BHNK.shape[2], k_BHMK.shape[2], across=self.dims.across)
        qkv = (hidden(x, weight_BHM1) for x in (q_BHNK, k_BHMK, v_BHMK))
        qkv_BNF = torch.cat([rearrange(x, "b h n k -> b n (h k)") for x in qkv], dim=2)
        weight_BNE = None if weight_BHM1 is None else _of_features(weight_BHM1, self.dims)
        y_BHNK: Tensor = rearrange(self.gate(qkv_BNF, grid, weight_BNE), "b n (h k) -> b h n k", h=q_BHNK.shape[1])
        return y_BHNK


def _of_features(weight_BHM1: Tensor, dims: MixerDims) -> Tensor:
    """The weights of each head's keys as those of its features: (B, M, E), or (B, M, 1) if heads do not differ."""
    width = 1 if weight_BHM1.shape[1] == 1 else dims.head_dim
    weight_BME: Tensor = rearrange(weight_BHM1.expand(-1, -1, -1, width), "b h m k -> b m (h k)")
    return weight_BME


class HyenaMixer(_Filters, SequenceMixer):
    """What the three forms share."""

    def __init__(self, config: _Hyena, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.in_proj = nn.Linear(dims.dim, 3 * dims.inner, bias=dims.qkv_bias)
        self.add_filters(config, dims.inner)
        self.out_proj = nn.Linear(dims.inner, dims.dim, bias=dims.out_bias)

    @override
    def mix(self, x_BND: Tensor, *, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return out_proj(q * g(k * v)): (B, N, D)."""
        y_BND: Tensor = self.out_proj(self.gate(self.in_proj(x_BND), grid))
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
        self.start_as_identity()


class HyenaSEMixer(HyenaMixer):
    """Hyena-SE; a token sees 2 kernel - 1 tokens along each axis."""


class HyenaXMixer(HyenaMixer):
    """Hyena-X; a token sees `kernel` tokens along each axis."""


class HyenaYMixer(HyenaMixer):
    """Hyena-Y; a token sees `kernel` tokens along each axis."""
