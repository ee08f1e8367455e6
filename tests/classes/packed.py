"""Ideogram 4, Krea 2 and ERNIE-Image: text and image in one sequence."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import grid_ids, prefix_mask

CHANNELS = 6
TEXT = 20
TEXT_LAYERS = 3

# The fourth has as many text tokens as image tokens.
SIZES = (
    {"batch": 1, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "height": 5, "width": 3, "text": 9},
    {"batch": 2, "height": 3, "width": 4, "text": 12},
    {"batch": 6, "height": 2, "width": 2, "text": 7},
)


def ideogram_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    image = height * width
    valid = prefix_mask(batch, text).flip(1)
    image_positions = grid_ids(height, width).long() + 65536
    text_positions = (valid.cumsum(1) - 1).clamp(min=0)[..., None].expand(batch, text, 3)
    return {
        "hidden_states": torch.cat([torch.zeros(batch, text, CHANNELS), torch.randn(batch, image, CHANNELS)], dim=1),
        "timestep": torch.rand(batch),
        "encoder_hidden_states": torch.cat(
            [torch.randn(batch, text, TEXT) * valid[..., None], torch.zeros(batch, image, TEXT)], dim=1
        ),
        "position_ids": torch.cat([text_positions, image_positions.expand(batch, image, 3)], dim=1),
        # Padding is a segment of its own; 3 marks text, 2 the image.
        "segment_ids": torch.cat([torch.where(valid, 1, -1), torch.ones(batch, image, dtype=torch.long)], dim=1),
        "indicator": torch.cat([valid.long() * 3, torch.full((batch, image), 2)], dim=1),
    }


def krea_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, height * width, CHANNELS),
        "encoder_hidden_states": torch.randn(batch, text, TEXT_LAYERS, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text),
        "timestep": torch.rand(batch),
        "position_ids": torch.cat([torch.zeros(text, 3), grid_ids(height, width)]),
    }


def ernie_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    valid = prefix_mask(batch, text)
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timestep": torch.rand(batch) * 1000,
        "text_bth": torch.randn(batch, text, TEXT) * valid[..., None],
        "text_lens": valid.sum(1),
    }


CASES = (
    Case(
        "Ideogram4Transformer2DModel",
        {
            "in_channels": CHANNELS,
            "num_layers": 2,
            "attention_head_dim": 12,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "adaln_dim": 14,
            "llm_features_dim": TEXT,
            "mrope_section": (2, 2, 2),
        },
        ideogram_inputs,
        SIZES,
    ),
    Case(
        "Krea2Transformer2DModel",
        {
            "in_channels": CHANNELS,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 40,
            "timestep_embed_dim": 18,
            "text_hidden_dim": TEXT,
            "num_text_layers": TEXT_LAYERS,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 1,
            "text_intermediate_size": 24,
            "axes_dims_rope": (4, 2, 2),
        },
        krea_inputs,
        SIZES,
    ),
    Case(
        "ErnieImageTransformer2DModel",
        {
            "hidden_size": 36,
            "num_attention_heads": 3,
            "num_layers": 2,
            "ffn_hidden_size": 40,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "text_in_dim": TEXT,
            "rope_axes_dim": (4, 4, 4),
        },
        ernie_inputs,
        SIZES,
    ),
)
