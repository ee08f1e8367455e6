"""Stable Diffusion 3, AuraFlow and HiDream: text and image in streams of their own that attend to each other."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 4
TEXT = 20
LLAMA = 14
POOLED = 10

SIZES = (
    {"batch": 1, "height": 8, "width": 6, "text": 7},
    {"batch": 2, "height": 8, "width": 6, "text": 7},
    {"batch": 3, "height": 4, "width": 10, "text": 5},
    {"batch": 4, "height": 6, "width": 6, "text": 9},
    {"batch": 1, "height": 4, "width": 4, "text": 1},
)


def aura_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": torch.rand(batch),
    }


def sd3_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **aura_inputs(batch, height, width, text),
        "pooled_projections": torch.randn(batch, POOLED),
        "timestep": torch.rand(batch) * 1000,
    }


def controlled_sd3_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    residual = (batch, height * width // 4, 24)
    return {
        **sd3_inputs(batch, height, width, text),
        "block_controlnet_hidden_states": [torch.randn(residual) for _ in range(3)],
    }


def hidream_inputs(batch: int, height: int, width: int, t5: int, llama: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timesteps": torch.randint(1000, (batch,)).float(),
        "encoder_hidden_states_t5": torch.randn(batch, t5, TEXT),
        # The states of five layers, of which the four blocks read one each.
        "encoder_hidden_states_llama3": torch.randn(5, batch, llama, LLAMA),
        "pooled_embeds": torch.randn(batch, POOLED),
    }


SD3 = {
    "sample_size": 8,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": TEXT,
    "caption_projection_dim": 24,
    "pooled_projection_dim": POOLED,
    "pos_embed_max_size": 6,
}

HIDREAM = {
    "patch_size": 2,
    "in_channels": CHANNELS,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_channels": [TEXT, LLAMA],
    "text_emb_dim": POOLED,
    "num_routed_experts": 3,
    "axes_dims_rope": (4, 2, 2),
    "max_resolution": (8, 8),
    "llama_layers": [0, 1, 3, 4],
}

CASES = (
    Case("SD3Transformer2DModel", SD3, sd3_inputs, SIZES),
    Case(
        "SD3Transformer2DModel",
        {**SD3, "num_layers": 4, "qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
        controlled_sd3_inputs,
        (SIZES[1], SIZES[0], *SIZES[2:]),
        "controlled-dual-attention",
    ),
    Case(
        "AuraFlowTransformer2DModel",
        {
            "sample_size": 8,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 3,
            "joint_attention_dim": TEXT,
            "caption_projection_dim": 24,
            "pos_embed_max_size": 36,
        },
        aura_inputs,
        SIZES,
    ),
    Case(
        "HiDreamImageTransformer2DModel",
        HIDREAM,
        hidream_inputs,
        (
            {"batch": 1, "height": 8, "width": 8, "t5": 7, "llama": 5},
            {"batch": 2, "height": 8, "width": 8, "t5": 7, "llama": 5},
            {"batch": 3, "height": 4, "width": 4, "t5": 3, "llama": 6},
            {"batch": 4, "height": 6, "width": 6, "t5": 9, "llama": 9},
        ),
    ),
    # An image that is not square is padded to the largest resolution and masked.
    Case(
        "HiDreamImageTransformer2DModel",
        HIDREAM,
        hidream_inputs,
        (
            {"batch": 2, "height": 8, "width": 6, "t5": 7, "llama": 5},
            {"batch": 1, "height": 8, "width": 6, "t5": 7, "llama": 5},
            {"batch": 3, "height": 4, "width": 10, "t5": 3, "llama": 6},
            {"batch": 4, "height": 2, "width": 8, "t5": 16, "llama": 4},
        ),
        "padded",
    ),
)
