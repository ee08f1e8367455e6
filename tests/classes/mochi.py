"""Mochi and EasyAnimate: video and text are streams of their own that attend to one another."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6
TEXT = 24


def video_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": (1000 * torch.rand(())).expand(batch),
    }


def mochi_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **video_inputs(batch, frames, height, width, text),
        "encoder_attention_mask": prefix_mask(batch, text),
    }


def inpaint_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **video_inputs(batch, frames, height, width, text),
        "inpaint_latents": torch.randn(batch, CHANNELS + 1, frames, height, width),
    }


# The fourth has as many text tokens as video tokens.
SIZES = (
    {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 5},
    {"batch": 2, "frames": 2, "height": 4, "width": 4, "text": 8},
)

CASES = (
    Case(
        "MochiTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 14,
            # The last is of its own kind: it leaves the text as it is.
            "num_layers": 3,
            "pooled_projection_dim": 20,
            "in_channels": CHANNELS,
            "text_embed_dim": TEXT,
            "time_embed_dim": 16,
        },
        mochi_inputs,
        (SIZES[1], SIZES[0], *SIZES[2:]),
    ),
    Case(
        "EasyAnimateTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 2 * CHANNELS + 1,
            "out_channels": CHANNELS,
            "patch_size": 2,
            "num_layers": 4,
            "mmdit_layers": 2,
            "time_embed_dim": 20,
            "add_norm_text_encoder": True,
            "text_embed_dim": TEXT,
        },
        inpaint_inputs,
        SIZES,
    ),
)
