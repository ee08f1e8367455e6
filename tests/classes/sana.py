"""Sana and PRX: cross-attention to text, and linear or full attention within the image."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 4
TEXT = 20

SIZES = (
    {"batch": 1, "height": 8, "width": 6, "text": 7},
    {"batch": 2, "height": 8, "width": 6, "text": 7},
    {"batch": 3, "height": 4, "width": 10, "text": 5},
    {"batch": 4, "height": 6, "width": 6, "text": 36},
    {"batch": 2, "height": 4, "width": 4, "text": 4},
)


def sana_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text).long(),
        "timestep": torch.rand(batch) * 1000,
    }


def guided_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **sana_inputs(batch, height, width, text),
        "timestep": torch.rand(batch),
        "guidance": torch.full((batch,), 0.45),
        "controlnet_block_samples": (torch.randn(batch, height * width // 4, 24),),
    }


def prx_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timestep": torch.rand(batch),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "attention_mask": prefix_mask(batch, text),
    }


SANA = {
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12,
    "cross_attention_dim": 24,
    "caption_channels": TEXT,
    "sample_size": 8,
}

PRX = {
    "in_channels": CHANNELS,
    "patch_size": 2,
    "context_in_dim": TEXT,
    "hidden_size": 36,
    "mlp_ratio": 2.0,
    "num_heads": 3,
    "depth": 2,
    "axes_dim": [8, 4],
    "bottleneck_size": 10,
    "resolution_embeds": True,
}

CASES = (
    Case("SanaTransformer2DModel", SANA, sana_inputs, SIZES),
    Case(
        "SanaTransformer2DModel",
        {
            **SANA,
            "patch_size": 2,
            "interpolation_scale": 1,
            "guidance_embeds": True,
            "qk_norm": "rms_norm_across_heads",
        },
        guided_inputs,
        (SIZES[1], SIZES[0], *SIZES[2:]),
        "guided",
    ),
    Case("PRXTransformer2DModel", PRX, prx_inputs, SIZES),
)
