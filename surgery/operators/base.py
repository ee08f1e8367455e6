"""The contracts of operators: sequence mixers may stand where an attention stood, channel mixers where an MLP stood.

Shape legend: B batch, N tokens, D features of the stream, E = heads * head_dim features inside the mixer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import PositiveInt
from torch import Tensor, nn
from typing_extensions import override

from surgery.config import Config
from surgery.errors import RewriteError

if TYPE_CHECKING:
    from surgery.operators.core import Core

Policy = Literal["random", "projections", "exact"]


class MixerDims(Config):
    """Sizes found at the replaced attention; see `surgery.operators.projections.dims_of`."""

    dim: PositiveInt
    heads: PositiveInt
    head_dim: PositiveInt
    qkv_bias: bool
    out_bias: bool

    @property
    def inner(self) -> int:
        """E, the width of q, k and v."""
        return self.heads * self.head_dim


class OperatorConfig(Config, ABC):
    """Base of operator configs: plain data that builds an operator and counts its cost without building it.

    A concrete config adds `kind: Literal["its_name"] = "its_name"` and its own fields. One multiplication or
    one addition is one FLOP; biases are not counted and boundary tokens cost as much as inner ones, as in the
    published tables.
    """

    kind: str

    @abstractmethod
    def build(self, dims: Any) -> nn.Module:
        """Return a new operator with random weights, on the default device and in the default dtype."""

    @abstractmethod
    def flops(self, dims: Any, batch: int, tokens: int) -> int:
        """FLOPs of one forward pass over (batch, tokens, dim)."""

    @abstractmethod
    def flops_mixing(self, dims: Any, batch: int, tokens: int) -> int:
        """FLOPs of mixing alone, see the subclasses."""

    @property
    def takes_any_length(self) -> bool:
        """Whether it takes any number of tokens; with a `grid` of its own it takes as many as lie on that."""
        return getattr(self, "grid", None) is None


class MixerConfig(OperatorConfig):
    """Base of the configs of sequence mixers."""

    @abstractmethod
    @override
    def build(self, dims: MixerDims) -> SequenceMixer:
        """Return a new mixer with random weights, on the default device and in the default dtype."""

    def core(self, dims: MixerDims) -> Core:
        """Return a new core, which stands for `scaled_dot_product_attention` alone; its filters start as the identity.

        Raises:
            RewriteError: this operator has none.
        """
        del dims
        raise RewriteError(f"{type(self).__name__} has no core; replace the whole attention instead")

    @abstractmethod
    @override
    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """FLOPs of mixing tokens, without projections and without the filters on q, k and v."""

    def flops_featuriser(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """FLOPs of the filters on q, k and v; none by default."""
        del dims, batch, tokens
        return 0

    def flops_projections(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """FLOPs of the q, k, v and output projections: 8 B N D E."""
        return 8 * batch * tokens * dims.dim * dims.inner

    @override
    def flops(self, dims: MixerDims, batch: int, tokens: int) -> int:
        """FLOPs of one forward pass over (batch, tokens, dim)."""
        return (
            self.flops_projections(dims, batch, tokens)
            + self.flops_featuriser(dims, batch, tokens)
            + self.flops_mixing(dims, batch, tokens)
        )


class SequenceMixer(nn.Module, ABC):
    """Mixes tokens: `mix` is the mathematics, `forward` the calling convention of diffusers' `Attention`."""

    def __init__(self, config: MixerConfig, dims: MixerDims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims

    @abstractmethod
    def mix(self, x_BND: Tensor, *, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return the mixed tokens (B, N, D).

        Args:
            x_BND: tokens in raster order.
            grid: sizes whose product is N, for mixers that use the layout; one-dimensional ones ignore it.
        """

    @abstractmethod
    def take_projections(self, attention: nn.Module) -> None:
        """Copy the projections of `attention` into this mixer; RewriteError if they do not fit."""

    def inherit(self, attention: nn.Module, policy: Policy) -> None:
        """Take over weights of the replaced attention, in place.

        Args:
            attention: the module that this mixer replaces; it is only read.
            policy: "random" keeps the fresh weights; "projections" takes the q, k, v and output projections,
                and everything else starts as the identity; "exact" does so only where the function stays the same,
                for every number of tokens.

        Raises:
            RewriteError: the policy is unknown, the attention has no projections that fit, or "exact" is asked of an
                operator that computes something else.
        """
        name = type(self).__name__
        if policy not in get_args(Policy):
            raise RewriteError(f"{name}: unknown inheritance policy {policy!r}; use one of {get_args(Policy)}")
        if policy == "exact" and (reason := self.why_inexact(attention)):
            raise RewriteError(f"{name} cannot keep the function of the old attention: {reason}; use 'projections'")
        if policy != "random":
            self.take_projections(attention)

    def why_inexact(self, attention: nn.Module) -> str | None:
        """Why this mixer with the projections of a plain attention computes something else; None if it does not.

        A window refuses whatever its size: how many tokens it must cover is known at run time only.
        """
        del attention
        return f"{self.config.kind} mixes the tokens in another way"

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **extras: object,
    ) -> Tensor:
        """Mix (B, N, D) tokens, called as a diffusers block calls its self-attention.

        Raises:
            RewriteError: an argument that self-attention over one stream has no use for is not None, or the
                tokens are not (B, N, D).
        """
        self._refuse("encoder_hidden_states", encoder_hidden_states)
        self._refuse("attention_mask", attention_mask)
        for name, value in extras.items():
            self._refuse(name, value)
        if hidden_states.ndim != 3 or hidden_states.shape[2] != self.dims.dim:
            raise RewriteError(
                f"{type(self).__name__}: hidden_states has shape {tuple(hidden_states.shape)}, "
                f"needs (batch, tokens, {self.dims.dim}); leave this attention as it is"
            )
        return self.mix(hidden_states)

    def flops(self, batch: int, tokens: int) -> int:
        """FLOPs of one forward pass over (batch, tokens, D)."""
        return self.config.flops(self.dims, batch, tokens)

    def flops_mixing(self, batch: int, tokens: int) -> int:
        """FLOPs of mixing tokens, without projections and without the filters on q, k and v."""
        return self.config.flops_mixing(self.dims, batch, tokens)

    def _refuse(self, name: str, value: object) -> None:
        if value is not None:
            raise RewriteError(
                f"{type(self).__name__}: the block passes {name}, which this operator cannot use; "
                "exclude this attention from the rule"
            )
