"""Sequence mixers, which may stand where an attention stood, and cores, which stand for its softmax alone.

Shape legend: B batch, N tokens or queries, M keys, H heads, K features of a head, D features of the stream,
E = H * K features inside the mixer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.base import BuiltByConfig, OperatorConfig
from surgery.operators.dims import MixerDims, Policy


class MixerConfig(OperatorConfig):
    """Base of the configs of sequence mixers."""

    @property
    def is_causal(self) -> bool:
        """Whether a token sees none that come later; of most operators a field says so."""
        return bool(getattr(self, "causal", False))

    @property
    def causal_advice(self) -> str:
        """What to do where it has to be causal and is not."""
        name = type(self).__name__
        return f"write {name}(causal=True)" if "causal" in type(self).model_fields else f"{name} cannot be causal"

    @abstractmethod
    @override
    def build(self, dims: MixerDims) -> SequenceMixer:
        """Return a new mixer with random weights, on the default device and in the default dtype."""

    def core(self, dims: MixerDims) -> MixerCore:
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


class SequenceMixer(BuiltByConfig, ABC):
    """Mixes tokens: `mix` is the mathematics, `forward` the calling convention of diffusers' `Attention`."""

    config: MixerConfig
    dims: MixerDims

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
                and everything else starts as the identity, as does "fitted", which a run then improves; "exact" does
                so only where the function stays the same, for every number of tokens.

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

    def _refuse(self, name: str, value: object) -> None:
        if value is not None:
            raise RewriteError(
                f"{type(self).__name__}: the block passes {name}, which this operator cannot use; "
                "exclude this attention from the rule"
            )


class MixerCore(BuiltByConfig, ABC):
    """Mixes values by queries and keys, and leaves projections, norms and rotary embeddings to the old attention."""

    takes_heads: ClassVar[bool] = True
    mixes_one_stream: ClassVar[bool] = True
    """Whether token i of the queries must be token i of the keys, so that N = M."""
    takes_mask: ClassVar[bool] = False
    """Whether `mix` uses a mask."""
    mixes_any_dtype: ClassVar[bool] = False
    """Whether its weights may have another dtype than what it mixes."""

    config: MixerConfig
    dims: MixerDims

    @abstractmethod
    def mix(
        self,
        q_BHNK: Tensor,
        k_BHMK: Tensor,
        v_BHMK: Tensor,
        mask: Tensor | None = None,
        *,
        grid: tuple[int, ...] | None = None,
    ) -> Tensor:
        """The mathematics: see `forward`."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *,
        hidden: Tensor | None = None,
        seen: Tensor | None = None,
        fill: float | Tensor = -torch.inf,
        enable_gqa: bool = False,
        grid: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Mix (B, H, N, K) queries with (B, H, M, K) keys and values: (B, H, N, K).

        Heads that are samples by themselves, (B H, N, K) and (B H, M, K), are each mixed as the only one: (B H, N, K).

        Args:
            query: scaled by 1 / sqrt(K) where the operator scales at all.
            key: its tokens are those of `value`.
            value: what is mixed.
            attn_mask: as in `scaled_dot_product_attention`, for cores that take one.
            hidden: the other way to write it, true where a key is hidden from a query, which then has the score `fill`.
            seen: the opposite of that.
            fill: minus infinity, or as good as that.
            enable_gqa: whether (B, G, M, K) keys and values are each for H / G heads that follow one another.
            grid: sizes whose product is N, for cores that use the layout of the tokens.

        Raises:
            RewriteError: there is a mask, or N is not M, and this operator has no use for that; or there are other
                heads than it has weights for.
        """
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        if seen is not None:
            hidden = ~seen
        if hidden is not None:
            attn_mask = torch.where(
                hidden, _lowest(fill, query.dtype), query.new_zeros(1) if attn_mask is None else attn_mask
            )
        if attn_mask is not None and attn_mask.dim() == 1:
            attn_mask = attn_mask.expand(1, -1)
        if query.dim() == 3:
            mask = attn_mask.unsqueeze(1) if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
            q, k, v = (tensor.unsqueeze(1) for tensor in (query, key, value))
            return self.forward(q, k, v, mask, grid=grid).squeeze(1)
        self._require_fit(query, key, attn_mask)
        dtype = self._other_dtype(query)
        if dtype is None:
            return _token_major(self.mix(query, key, value, attn_mask, grid=grid))
        mask = attn_mask if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask.to(dtype)
        mixed_BHNK = self.mix(query.to(dtype), key.to(dtype), value.to(dtype), mask, grid=grid)
        return _token_major(mixed_BHNK.to(query.dtype))

    def _other_dtype(self, query: Tensor) -> torch.dtype | None:
        """The dtype of its weights if it is another, as where a model in half precision casts up for its softmax.

        Under autocast each operation finds its own.
        """
        weight, device = next(self.parameters(), None), query.device.type
        if self.mixes_any_dtype or weight is None or weight.dtype == query.dtype:
            return None
        is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return None if is_autocast else weight.dtype

    def _require_fit(self, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        """Raise RewriteError if this operator cannot mix these, see `forward`."""
        name = type(self).__name__
        if mask is not None and not self.takes_mask:
            raise RewriteError(
                f"{name}: is called with a mask, which it cannot use; exclude this attention from the rule"
            )
        if query.shape[1] != self.dims.heads and next(self.parameters(), None) is not None:
            raise RewriteError(
                f"{name}: has {query.shape[1]} heads where its weights are for {self.dims.heads}, as where samples are "
                "heads too; exclude this attention from the rule"
            )
        if self.mixes_one_stream and query.shape[2] != key.shape[2]:
            raise RewriteError(
                f"{name}: has {query.shape[2]} queries and {key.shape[2]} keys, needs as many of both; "
                "exclude cross-attention from the rule"
            )

    def why_inexact(self) -> str | None:
        """Why this core computes something else than softmax(q k^T / sqrt(K)) v; None if it does not."""
        return f"{self.config.kind} mixes the tokens in another way"

    @override
    def flops(self, batch: int, tokens: int) -> int:
        """FLOPs of one forward pass over as many queries as keys."""
        return self.config.flops_featuriser(self.dims, batch, tokens) + self.flops_mixing(batch, tokens)


def _lowest(fill: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """A number beside which scores do not count, so that it can be added to them; minus infinity stays."""
    lowest = torch.finfo(dtype).min / 2
    if isinstance(fill, Tensor):
        return torch.where(fill == -torch.inf, fill, lowest)
    return fill if fill == -torch.inf else lowest


def _token_major(y_BHNK: Tensor) -> Tensor:
    """The heads of a token side by side in memory, as of `scaled_dot_product_attention`, so that they can be viewed."""
    return y_BHNK.transpose(1, 2).contiguous().transpose(1, 2)
