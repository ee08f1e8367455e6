"""HunyuanVideo, its image conditioned form, FramePack and HunyuanVideo 1.5."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6
TEXT = 20
POOLED = 14

# The fourth has as many text tokens as video tokens.
SIZES = (
    {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "frames": 2, "height": 8, "width": 4, "text": 9},
    {"batch": 2, "frames": 3, "height": 4, "width": 4, "text": 12},
)
BATCHED_SIZES = (SIZES[1], SIZES[0], *SIZES[2:])


def hunyuan_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # The pipeline casts the mask to the type of the model.
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "timestep": torch.full((batch,), 875.0),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text).float(),
        "pooled_projections": torch.randn(batch, POOLED),
        "guidance": torch.full((batch,), 6000.0),
        "attention_kwargs": None,
    }


def replaced_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {**hunyuan_inputs(batch, frames, height, width, text), "guidance": None}


def framepack_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    first, _, window, once, twice, four = torch.arange(frames + 21).split([1, 1, frames, 1, 2, 16])
    history = torch.randn(batch, CHANNELS, 20, height, width)
    return {
        **hunyuan_inputs(batch, frames, height, width, text),
        "image_embeds": torch.randn(batch, 5, 18),
        "indices_latents": window,
        "latents_clean": history[:, :, :2],
        "indices_latents_clean": torch.cat([first, once]),
        "latents_history_2x": history[:, :, 2:4],
        "indices_latents_history_2x": twice,
        "latents_history_4x": history[:, :, 4:],
        "indices_latents_history_4x": four,
    }


def hunyuan15_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # Latents, those of the image and a mask; a prompt without quoted text has no glyphs.
    glyphs = prefix_mask(batch, 4)
    glyphs[-1] = False
    return {
        "hidden_states": torch.randn(batch, 2 * CHANNELS + 1, frames, height, width),
        "timestep": torch.full((batch,), 875.0),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text).float(),
        "encoder_hidden_states_2": torch.randn(batch, 4, 10),
        "encoder_attention_mask_2": glyphs.float(),
        "image_embeds": torch.zeros(batch, 5, 18),
        "attention_kwargs": None,
    }


def hunyuan15_image_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **hunyuan15_inputs(batch, frames, height, width, text),
        "image_embeds": torch.randn(1, 5, 18).repeat(batch, 1, 1),
        "timestep_r": torch.full((batch,), 750.0),
    }


HUNYUAN = {
    "in_channels": CHANNELS,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 2,
    "mlp_ratio": 2.0,
    "text_embed_dim": TEXT,
    "pooled_projection_dim": POOLED,
    "rope_axes_dim": (4, 4, 8),
}

HUNYUAN15 = {
    "in_channels": 2 * CHANNELS + 1,
    "out_channels": CHANNELS,
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "num_layers": 2,
    "num_refiner_layers": 2,
    "mlp_ratio": 2.0,
    "text_embed_dim": TEXT,
    "text_embed_2_dim": 10,
    "image_embed_dim": 18,
    "rope_axes_dim": (2, 2, 4),
}

CASES = (
    Case("HunyuanVideoTransformer3DModel", HUNYUAN, hunyuan_inputs, SIZES),
    Case(
        "HunyuanVideoTransformer3DModel",
        {**HUNYUAN, "guidance_embeds": False, "image_condition_type": "token_replace"},
        replaced_inputs,
        BATCHED_SIZES,
        "token_replace",
    ),
    Case(
        "HunyuanVideoFramepackTransformer3DModel",
        {**HUNYUAN, "has_image_proj": True, "image_proj_dim": 18, "has_clean_x_embedder": True},
        framepack_inputs,
        BATCHED_SIZES,
    ),
    Case("HunyuanVideo15Transformer3DModel", HUNYUAN15, hunyuan15_inputs, SIZES),
    Case(
        "HunyuanVideo15Transformer3DModel",
        {**HUNYUAN15, "use_meanflow": True},
        hunyuan15_image_inputs,
        BATCHED_SIZES,
        "image",
    ),
)
