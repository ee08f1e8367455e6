"""Cores: what stands where an attention calls `scaled_dot_product_attention`, and the mixers built around one.

Shape legend: B batch, H heads, N queries, M keys, K features of a head, D features of the stream,
E = H * K features inside the mixer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.base import MixerConfig, MixerDims, SequenceMixer
from surgery.operators.projections import Projections, extra_features, projections_of


class Core(nn.Module, ABC):
    """Mixes values by queries and keys, and leaves projections, norms and rotary embeddings to the old attention."""

    mixes_one_stream: ClassVar[bool] = True
    """Whether token i of the queries must be token i of the keys, so that N = M."""
    takes_mask: ClassVar[bool] = False
    """Whether `mix` uses a mask."""

    def __init__(self, config: MixerConfig, dims: MixerDims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims

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
        grid: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Mix (B, H, N, K) queries with (B, H, M, K) keys and values: (B, H, N, K).

        Args:
            query: scaled by 1 / sqrt(K) where the operator scales at all.
            key: its tokens are those of `value`.
            value: what is mixed.
            attn_mask: as in `scaled_dot_product_attention`, for cores that take one.
            grid: sizes whose product is N, for cores that use the layout of the tokens.

        Raises:
            RewriteError: there is a mask, or N is not M, and this operator has no use for that.
        """
        name = type(self).__name__
        if attn_mask is not None and not self.takes_mask:
            raise RewriteError(
                f"{name}: is called with a mask, which it cannot use; exclude this attention from the rule"
            )
        if self.mixes_one_stream and query.shape[2] != key.shape[2]:
            raise RewriteError(
                f"{name}: has {query.shape[2]} queries and {key.shape[2]} keys, needs as many of both; "
                "exclude cross-attention from the rule"
            )
        return _token_major(self.mix(query, key, value, attn_mask, grid=grid))

    def why_inexact(self) -> str | None:
        """Why this core computes something else than softmax(q k^T / sqrt(K)) v; None if it does not."""
        return f"{self.config.kind} mixes the tokens in another way"

    def flops(self, batch: int, tokens: int) -> int:
        """FLOPs of one forward pass over as many queries as keys."""
        return self.config.flops_featuriser(self.dims, batch, tokens) + self.flops_mixing(batch, tokens)

    def flops_mixing(self, batch: int, tokens: int) -> int:
        """FLOPs of mixing tokens, without the filters on q, k and v."""
        return self.config.flops_mixing(self.dims, batch, tokens)


def _token_major(y_BHNK: Tensor) -> Tensor:
    """The heads of a token side by side in memory, as of `scaled_dot_product_attention`, so that they can be viewed."""
    return y_BHNK.transpose(1, 2).contiguous().transpose(1, 2)


class CoreMixer(SequenceMixer):
    """Projections around a core, with diffusers' parameter names (to_q, to_k, to_v, to_out.0).

    The names let a LoRA that was trained on the original attention load here too.
    """

    def __init__(self, config: MixerConfig, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.to_q = nn.Linear(dims.dim, dims.inner, bias=dims.qkv_bias)
        self.to_k = nn.Linear(dims.dim, self.key_width, bias=dims.qkv_bias)
        self.to_v = nn.Linear(dims.dim, self.key_width, bias=dims.qkv_bias)
        self.to_out = nn.ModuleList([nn.Linear(dims.inner, dims.dim, bias=dims.out_bias)])
        self.core = config.core(dims)

    @property
    def key_width(self) -> int:
        """Features of all keys of a token, and of all values."""
        return self.dims.inner

    @override
    def mix(self, x_BND: Tensor, *, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return to_out(core(to_q(x), to_k(x), to_v(x))): (B, N, D)."""
        q_BHNK, k_BHNK, v_BHNK = (
            rearrange(project(x_BND), "b n (h k) -> b h n k", k=self.dims.head_dim)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        y_BHNK = self.core(q_BHNK, k_BHNK, v_BHNK, grid=grid)
        y_BND: Tensor = self.to_out[0](rearrange(y_BHNK, "b h n k -> b n (h k)"))
        return y_BND

    @override
    def take_projections(self, attention: nn.Module) -> None:
        """Copy all four projections.

        Raises:
            RewriteError: the projections do not fit, or the attention does more than plain softmax attention,
                so that its weights would mean something else here.
        """
        extras = extra_features(attention)
        if extras:
            raise RewriteError(
                f"{type(self).__name__} cannot inherit from {type(attention).__name__} with "
                f"{', '.join(extras)}; use the policy 'random'"
            )
        found = projections_of(attention)
        found.query.copy_to(self.to_q, "to_q")
        self.take_keys(found)
        out = self.to_out[0]
        assert isinstance(out, nn.Linear)
        found.out.copy_to(out, "to_out[0]")

    def take_keys(self, found: Projections) -> None:
        """Copy the projections of keys and values."""
        found.key.copy_to(self.to_k, "to_k")
        found.value.copy_to(self.to_v, "to_v")
