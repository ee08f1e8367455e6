"""The five models, each at tiny size, with inputs that are the same at every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import pytest
import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    WanTransformer3DModel,
)
from torch import nn

import surgery
from surgery.operators import HyenaX, MixerDims, SequenceMixer
from surgery.rewriting import Replacement, Rule, Site, indices, node
from surgery.rules import replace_attention
from tests.nightly import thinned
from tests.rewriting.operators import Scale, ScaleMixer

Inputs = dict[str, Any]


class Gain(Scale):
    """Multiplies the tokens by a gain for each feature, whatever else it is called with."""

    kind: Literal["gain"] = "gain"  # type: ignore[assignment]

    def build(self, dims: MixerDims) -> SequenceMixer:
        return GainMixer(self, dims)


class GainMixer(ScaleMixer):
    def forward(self, hidden_states: torch.Tensor, *_: Any, **extras: Any) -> torch.Tensor:
        return self.mix(hidden_states)


class ToGain(Rule):
    """Puts a gain in the place of any operator that keeps the shape of its tokens."""

    def check(self, site: Site) -> str | None:
        return None if site.first.is_module else "is made of nodes"

    def replacement(self, site: Site) -> Replacement:
        width = site.operator.in_shape[-1]
        dims = MixerDims(dim=width, heads=1, head_dim=width, qkv_bias=False, out_bias=False)
        return Replacement(operator=Gain(), dims=dims, inherit="random")


@dataclass(frozen=True)
class Family:
    """How to make one of the models and its inputs."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    rule: Rule


def dit() -> nn.Module:
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=4,
        num_embeds_ada_norm=1000,
    )  # fmt: skip


def pixart() -> nn.Module:
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=4,
        cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
    )  # fmt: skip


def sd3() -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=4, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip


def flux() -> nn.Module:
    return FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


def wan() -> nn.Module:
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip


def image(batch: int = 2, text: int = 5, pooled: bool = False) -> Inputs:
    """Latents, a timestep, and the text's embeddings."""
    inputs = {
        "hidden_states": _noise(batch, 4, 4, 4),
        "timestep": torch.full((batch,), 7),
        "encoder_hidden_states": _noise(batch, text, 12),
    }
    return inputs | ({"pooled_projections": _noise(batch, 10)} if pooled else {})


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _dit_inputs() -> Inputs:
    inputs = image()
    del inputs["encoder_hidden_states"]
    return inputs | {"class_labels": torch.tensor([5, 1])}


def _pixart_inputs() -> Inputs:
    mask = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    return image() | {
        "encoder_attention_mask": mask,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _flux_inputs() -> Inputs:
    return {
        "hidden_states": _noise(2, 4, 16),
        "timestep": torch.full((2,), 0.5),
        "guidance": torch.full((2,), 3.5),
        "encoder_hidden_states": _noise(2, 5, 12),
        "pooled_projections": _noise(2, 10),
        "img_ids": torch.tensor([[0.0, y, x] for y in (0, 1) for x in (0, 1)]),
        "txt_ids": torch.zeros(5, 3),
    }


def _wan_inputs() -> Inputs:
    return image() | {"hidden_states": _noise(2, 4, 2, 4, 4)}


attention = replace_attention(HyenaX(kernel=3), layers=indices(1))
mlp = ToGain(pattern=node("mlp"))
rotated = ToGain(pattern=node("self_attention"), layers=indices(1))
FAMILIES = {
    "dit": Family(dit, _dit_inputs, attention),
    "pixart": Family(pixart, _pixart_inputs, attention),
    "sd3": Family(sd3, lambda: image(pooled=True), mlp),
    "flux": Family(flux, _flux_inputs, mlp),
    "wan": Family(wan, _wan_inputs, rotated),
}


def original(name: str) -> nn.Module:
    """The model, in eval mode; two of a name are equal."""
    torch.manual_seed(0)
    return FAMILIES[name].build().eval()


def student(name: str) -> nn.Module:
    """The model with another operator in its second block."""
    return surgery.rewrite(original(name), [FAMILIES[name].rule], inputs(name))


MAKERS = {"original": original, "student": student}
every_pair = pytest.mark.parametrize(("name", "maker"), thinned(product(FAMILIES, MAKERS), 3))


def inputs(name: str) -> Inputs:
    return FAMILIES[name].inputs()


def traced(model: nn.Module, name: str) -> nn.Module:
    return surgery.trace(model, inputs(name)).module()


def pair(name: str, maker: str) -> tuple[nn.Module, nn.Module]:
    """A model, and the traced module of one that is equal; they share nothing."""
    return MAKERS[maker](name), traced(MAKERS[maker](name), name)
