"""What full and sliding-window attention share: projections, inheritance and cost.

Shape legend: B batch, N tokens, D features of the stream, E = heads * head_dim features inside the mixer.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn
from typing_extensions import override

from surgery.errors import RewriteError
from surgery.operators.base import MixerConfig, MixerDims, SequenceMixer
from surgery.operators.projections import extra_features, projections_of


def flops_softmax(dims: MixerDims, pairs: int) -> int:
    """FLOPs of softmax attention over (query, key) pairs: each 4 E for q k^T and A v, and 3 H for softmax."""
    return pairs * (4 * dims.inner + 3 * dims.heads)


class SoftmaxMixer(SequenceMixer):
    """Softmax attention over some set of keys, with diffusers' parameter names (to_q, to_k, to_v, to_out.0).

    The names let a LoRA that was trained on the original attention load here too.
    """

    def __init__(self, config: MixerConfig, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.heads = dims.heads
        self.to_q = nn.Linear(dims.dim, dims.inner, bias=dims.qkv_bias)
        self.to_k = nn.Linear(dims.dim, dims.inner, bias=dims.qkv_bias)
        self.to_v = nn.Linear(dims.dim, dims.inner, bias=dims.qkv_bias)
        self.to_out = nn.ModuleList([nn.Linear(dims.inner, dims.dim, bias=dims.out_bias)])

    @abstractmethod
    def attend(self, q_BNE: Tensor, k_BNE: Tensor, v_BNE: Tensor) -> Tensor:
        """Softmax attention, all heads, scale 1 / sqrt(head_dim): (B, N, E)."""

    @override
    def mix(self, x_BND: Tensor, *, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return to_out(attend(to_q(x), to_k(x), to_v(x))): (B, N, D)."""
        y_BNE = self.attend(self.to_q(x_BND), self.to_k(x_BND), self.to_v(x_BND))
        y_BND: Tensor = self.to_out[0](y_BNE)
        return y_BND

    @override
    def take_projections(self, attention: nn.Module) -> None:
        """Copy all four projections, so that covering every token gives the replaced attention's function.

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
        found.key.copy_to(self.to_k, "to_k")
        found.value.copy_to(self.to_v, "to_v")
        out = self.to_out[0]
        assert isinstance(out, nn.Linear)
        found.out.copy_to(out, "to_out[0]")
