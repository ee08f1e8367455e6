"""Hunyuan-DiT and HunyuanImage."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 4
TEXT = 20
T5 = 16
GLYPHS = 10
CLIP_LENGTH = 5
T5_LENGTH = 7
HEAD = 8


def hunyuan_dit_inputs(batch: int, height: int, width: int) -> dict[str, Any]:
    grid = (height // 2, width // 2)
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timestep": torch.randint(1000, (batch,)).float(),
        "encoder_hidden_states": torch.randn(batch, CLIP_LENGTH, TEXT),
        "text_embedding_mask": prefix_mask(batch, CLIP_LENGTH).long(),
        "encoder_hidden_states_t5": torch.randn(batch, T5_LENGTH, T5),
        "text_embedding_mask_t5": prefix_mask(batch, T5_LENGTH).long(),
        "image_meta_size": torch.tensor([[64.0, 64.0, 8.0 * height, 8.0 * width, 0.0, 0.0]]).repeat(batch, 1),
        "style": torch.zeros(batch, dtype=torch.long),
        "image_rotary_emb": get_2d_rotary_pos_embed(HEAD, ((0, 0), grid), grid, output_type="pt"),
    }


def hunyuan_image_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timestep": torch.rand(batch) * 1000,
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text).long(),
    }


def glyph_inputs(batch: int, height: int, width: int, text: int, glyphs: int) -> dict[str, Any]:
    # A prompt without text to render, here every second, has no valid glyph at all.
    mask = prefix_mask(batch, glyphs) & (torch.arange(batch) % 2 == 0)[:, None]
    return {
        **hunyuan_image_inputs(batch, height, width, text),
        "timestep_r": torch.rand(batch) * 1000,
        "encoder_hidden_states_2": torch.randn(batch, glyphs, GLYPHS),
        "encoder_attention_mask_2": mask.long(),
        "guidance": torch.full((batch,), 3500.0),
    }


HUNYUAN_IMAGE = {
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_attention_heads": 3,
    "attention_head_dim": HEAD,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 2,
    "text_embed_dim": TEXT,
    "rope_axes_dim": (4, 4),
}

CASES = (
    Case(
        "HunyuanDiT2DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": HEAD,
            "hidden_size": 2 * HEAD,
            "in_channels": CHANNELS,
            "patch_size": 2,
            "sample_size": 8,
            # The last two of six layers take skip connections.
            "num_layers": 6,
            "mlp_ratio": 2.0,
            "cross_attention_dim": TEXT,
            "cross_attention_dim_t5": T5,
            "pooled_projection_dim": 12,
            "text_len": CLIP_LENGTH,
            "text_len_t5": T5_LENGTH,
        },
        hunyuan_dit_inputs,
        (
            {"batch": 1, "height": 8, "width": 8},
            {"batch": 2, "height": 8, "width": 8},
            {"batch": 3, "height": 4, "width": 12},
            {"batch": 4, "height": 6, "width": 4},
            {"batch": 2, "height": 4, "width": 6},
        ),
    ),
    Case(
        "HunyuanImageTransformer2DModel",
        HUNYUAN_IMAGE,
        hunyuan_image_inputs,
        (
            {"batch": 1, "height": 4, "width": 6, "text": 7},
            {"batch": 2, "height": 4, "width": 6, "text": 7},
            {"batch": 3, "height": 5, "width": 3, "text": 9},
            {"batch": 4, "height": 3, "width": 4, "text": 12},
        ),
    ),
    Case(
        "HunyuanImageTransformer2DModel",
        {
            **HUNYUAN_IMAGE,
            "patch_size": (2, 2),
            "text_embed_2_dim": GLYPHS,
            "guidance_embeds": True,
            "use_meanflow": True,
        },
        glyph_inputs,
        (
            {"batch": 2, "height": 4, "width": 6, "text": 7, "glyphs": 5},
            {"batch": 1, "height": 4, "width": 6, "text": 7, "glyphs": 5},
            {"batch": 3, "height": 8, "width": 4, "text": 9, "glyphs": 3},
            {"batch": 2, "height": 4, "width": 4, "text": 8, "glyphs": 8},
        ),
        "glyphs",
    ),
)
