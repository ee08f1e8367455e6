"""Motif-Video with an image, cross-attention to the text and decoder blocks."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6
TEXT = 20
IMAGE = 18


def motif_inputs(batch: int, frames: int, height: int, width: int, text: int, image: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, 2 * CHANNELS + 1, frames, height, width),
        "timestep": torch.full((batch,), 875.0),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text),
        "image_embeds": torch.randn(batch, image, IMAGE),
        "attention_kwargs": None,
    }


CASES = (
    Case(
        "MotifVideoTransformer3DModel",
        {
            "in_channels": 2 * CHANNELS + 1,
            "out_channels": CHANNELS,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_single_layers": 4,
            "num_decoder_layers": 2,
            "mlp_ratio": 2.0,
            "text_embed_dim": TEXT,
            "image_embed_dim": IMAGE,
            "rope_axes_dim": (4, 4, 8),
            "enable_text_cross_attention_dual": True,
            "enable_text_cross_attention_single": True,
        },
        motif_inputs,
        (
            {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7, "image": 5},
            {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7, "image": 5},
            {"batch": 3, "frames": 2, "height": 8, "width": 4, "text": 9, "image": 5},
            {"batch": 2, "frames": 3, "height": 4, "width": 4, "text": 12, "image": 12},
        ),
    ),
)
