"""DiT, PixArt, and the patches of Transformer2DModel, which PixArt-alpha once was."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 4
TEXT = 20
CLASSES = 10

SIZES = (
    {"batch": 1, "height": 8, "width": 8, "text": 7},
    {"batch": 2, "height": 8, "width": 8, "text": 7},
    {"batch": 3, "height": 8, "width": 12, "text": 5},
    {"batch": 4, "height": 4, "width": 8, "text": 8},
    {"batch": 2, "height": 6, "width": 6, "text": 9},
)


def dit_inputs(batch: int, side: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, side, side),
        "timestep": torch.randint(1000, (batch,)),
        # The last label is that of no class.
        "class_labels": torch.randint(CLASSES + 1, (batch,)),
    }


def pixart_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text).long(),
        "timestep": torch.randint(1000, (batch,)),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def conditioned_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **pixart_inputs(batch, height, width, text),
        "added_cond_kwargs": {
            "resolution": torch.tensor([[8.0 * height, 8.0 * width]]).repeat(batch, 1),
            "aspect_ratio": torch.tensor([[height / width]]).repeat(batch, 1),
        },
    }


DIT = {
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "in_channels": CHANNELS,
    "out_channels": 2 * CHANNELS,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
}

PIXART = {**DIT, "norm_type": "ada_norm_single", "cross_attention_dim": 24, "caption_channels": TEXT}

CASES = (
    Case(
        "DiTTransformer2DModel",
        {**DIT, "num_embeds_ada_norm": CLASSES},
        dit_inputs,
        ({"batch": 1, "side": 8}, {"batch": 2, "side": 8}, {"batch": 3, "side": 12}, {"batch": 4, "side": 4}),
    ),
    Case("PixArtTransformer2DModel", PIXART, pixart_inputs, SIZES),
    Case(
        "PixArtTransformer2DModel",
        {**PIXART, "use_additional_conditions": True},
        conditioned_inputs,
        (SIZES[1], SIZES[0], *SIZES[2:]),
        "conditioned",
    ),
    Case("Transformer2DModel", PIXART, pixart_inputs, SIZES, "patches"),
)
