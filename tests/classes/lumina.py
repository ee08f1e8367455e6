"""Lumina-Next and Lumina 2."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 4
TEXT = 20
HEAD = 8

# The fourth has as many text tokens as image tokens, and a batch as large as the number of channels.
SIZES = (
    {"batch": 1, "height": 8, "width": 6, "text": 7},
    {"batch": 2, "height": 8, "width": 6, "text": 7},
    {"batch": 3, "height": 4, "width": 10, "text": 5},
    {"batch": 4, "height": 6, "width": 6, "text": 9},
)


def lumina_next_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timestep": torch.rand(batch),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_mask": prefix_mask(batch, text).long(),
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(HEAD, 12, 12),
        "cross_attention_kwargs": {"base_sequence_length": 6},
    }


def lumina2_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timestep": torch.rand(batch),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text).long(),
    }


CASES = (
    Case(
        "LuminaNextDiT2DModel",
        {
            "sample_size": 8,
            "in_channels": CHANNELS,
            "hidden_size": 4 * HEAD,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 12,
            "cross_attention_dim": TEXT,
        },
        lumina_next_inputs,
        SIZES,
    ),
    Case(
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8,
            "in_channels": CHANNELS,
            "hidden_size": 4 * HEAD,
            "num_layers": 2,
            "num_refiner_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 12,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (24, 12, 12),
            "cap_feat_dim": TEXT,
        },
        lumina2_inputs,
        SIZES,
    ),
)
