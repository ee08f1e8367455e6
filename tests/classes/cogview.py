"""CogView 3 Plus, CogView 4 and GLM-Image: patches and text with sizes of the image as conditions."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 6
TEXT = 20
CODES = 32

# The fourth has as many text tokens as image tokens, and a batch as large as the number of channels.
SIZES = (
    {"batch": 1, "height": 8, "width": 6, "text": 7},
    {"batch": 2, "height": 8, "width": 6, "text": 7},
    {"batch": 3, "height": 4, "width": 10, "text": 5},
    {"batch": 6, "height": 6, "width": 6, "text": 9},
    {"batch": 1, "height": 4, "width": 4, "text": 16},
)


def glyph_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": torch.randint(1000, (batch,)),
        "target_size": torch.tensor([[8.0 * height, 8.0 * width]]).repeat(batch, 1),
        "crop_coords": torch.zeros(batch, 2),
    }


def cogview_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **glyph_inputs(batch, height, width, text),
        "original_size": torch.tensor([[1024.0, 768.0]]).repeat(batch, 1),
    }


def glm_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    codes = torch.randint(CODES, (batch, height * width // 4))
    return {
        **glyph_inputs(batch, height, width, text),
        "prior_token_id": codes,
        # Guidance drops whole samples; here that is every second.
        "prior_token_drop": (torch.arange(batch) % 2 == 1)[:, None].expand(codes.shape).clone(),
    }


COGVIEW = {
    "in_channels": CHANNELS,
    "out_channels": 5,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "text_embed_dim": TEXT,
    "time_embed_dim": 18,
    "condition_dim": 10,
}

CASES = (
    Case(
        "CogView3PlusTransformer2DModel", {**COGVIEW, "pos_embed_max_size": 6, "sample_size": 8}, cogview_inputs, SIZES
    ),
    Case("CogView4Transformer2DModel", {**COGVIEW, "sample_size": 8, "rope_axes_dim": (16, 16)}, cogview_inputs, SIZES),
    Case("GlmImageTransformer2DModel", {**COGVIEW, "prior_vq_quantizer_codebook_size": CODES}, glm_inputs, SIZES),
)
