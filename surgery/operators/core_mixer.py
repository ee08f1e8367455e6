"""Mixers that are projections around a core.

Shape legend: B batch, H heads, N tokens, K features of a head, D features of the stream.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.dims import MixerDims
from surgery.operators.mixer import MixerConfig, SequenceMixer
from surgery.operators.projections import Projections, extra_features, projections_of


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
