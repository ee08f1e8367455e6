"""The transformers within U-Nets: continuous feature maps, and the codes of VQ-Diffusion."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 12
TEXT = 20
CODES = 16

SIZES = (
    {"batch": 1, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "height": 5, "width": 3, "text": 9},
    {"batch": 2, "height": 3, "width": 4, "text": 12},
    {"batch": 12, "height": 2, "width": 2, "text": 4},
)


def unet_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
    }


def dreamlite_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {**unet_inputs(batch, height, width, text), "encoder_attention_mask": prefix_mask(batch, text)}


def vectorized_inputs(batch: int, tokens: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randint(CODES, (batch, tokens)),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        # The layers of AdaLayerNorm take one time for the whole batch.
        "timestep": torch.randint(100, ()),
    }


CONTINUOUS = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": CHANNELS,
    "num_layers": 2,
    "norm_num_groups": 3,
    "cross_attention_dim": TEXT,
}

CASES = (
    Case("Transformer2DModel", CONTINUOUS, unet_inputs, SIZES),
    Case(
        "Transformer2DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "cross_attention_dim": TEXT,
            "sample_size": 4,
            "num_vector_embeds": CODES,
            "norm_type": "ada_norm",
            "num_embeds_ada_norm": 100,
            "attention_bias": True,
            "activation_fn": "geglu-approximate",
        },
        vectorized_inputs,
        (
            {"batch": 1, "tokens": 16, "text": 7},
            {"batch": 2, "tokens": 16, "text": 7},
            {"batch": 3, "tokens": 9, "text": 5},
            {"batch": 2, "tokens": 8, "text": 8},
        ),
        "vectorized",
    ),
    Case(
        "DualTransformer2DModel",
        CONTINUOUS,
        unet_inputs,
        # 77 tokens of text, and the rest, 257 in Versatile Diffusion, of an image.
        (
            {"batch": 1, "height": 4, "width": 6, "text": 334},
            {"batch": 2, "height": 4, "width": 6, "text": 334},
            {"batch": 3, "height": 5, "width": 3, "text": 90},
            {"batch": 2, "height": 3, "width": 4, "text": 154},
        ),
    ),
    Case(
        "DreamLiteTransformer2DModel",
        {
            **CONTINUOUS,
            "num_attention_heads": 4,
            "use_linear_projection": True,
            "qk_norm": "rms_norm",
            "ff_mult": 3,
        },
        dreamlite_inputs,
        SIZES,
    ),
)
