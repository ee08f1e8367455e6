"""Operators of the tests: one that changes nothing, one that fails, and some that do not fit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from surgery.operators import MixerConfig, MixerDims, SequenceMixer, projections_of
from surgery.testing.transformers import TinyAttention


class Same(MixerConfig):
    """Builds the attention of the random models again; with its weights inherited it is the identity rule."""

    kind: Literal["same"] = "same"

    def build(self, dims: MixerDims) -> nn.Module:  # type: ignore[override]
        return SameAttention(dims.dim, dims.heads, dims.qkv_bias)

    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        return 4 * batch * tokens**2 * dims.inner + 3 * batch * dims.heads * tokens**2


class SameAttention(TinyAttention):
    def inherit(self, attention: nn.Module, policy: str) -> None:
        self.load_state_dict(attention.state_dict())


class Scale(MixerConfig):
    """Multiplies by `factor`: a cheap operator whose effect is easy to tell."""

    kind: Literal["scale"] = "scale"
    factor: float = 2.0

    def build(self, dims: MixerDims) -> SequenceMixer:
        return ScaleMixer(self, dims)

    def flops_mixing(self, dims: MixerDims, batch: int, tokens: int) -> int:
        return batch * tokens * dims.dim


class ScaleMixer(SequenceMixer):
    def __init__(self, config: Scale, dims: MixerDims) -> None:
        super().__init__(config, dims)
        self.gain = nn.Parameter(torch.full((dims.dim,), config.factor))

    def mix(self, x_BND: torch.Tensor, *, grid: tuple[int, ...] | None = None) -> torch.Tensor:
        return x_BND * self.gain

    def take_projections(self, attention: nn.Module) -> None:
        projections_of(attention)


class Narrow(Scale):
    """Gives half of the features."""

    kind: Literal["narrow"] = "narrow"  # type: ignore[assignment]

    def build(self, dims: MixerDims) -> SequenceMixer:
        return NarrowMixer(self, dims)


class NarrowMixer(ScaleMixer):
    def mix(self, x_BND: torch.Tensor, *, grid: tuple[int, ...] | None = None) -> torch.Tensor:
        return x_BND[..., : x_BND.shape[-1] // 2]


class FixedLength(Scale):
    """Works at the traced token count only, as a filter with one channel a token would."""

    kind: Literal["fixed"] = "fixed"  # type: ignore[assignment]
    tokens: int

    def build(self, dims: MixerDims) -> SequenceMixer:
        return FixedLengthMixer(self, dims)


class FixedLengthMixer(ScaleMixer):
    def mix(self, x_BND: torch.Tensor, *, grid: tuple[int, ...] | None = None) -> torch.Tensor:
        return x_BND.view(-1, self.config.tokens, x_BND.shape[-1])
