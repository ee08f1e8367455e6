"""Sana-Video: linear attention over the video, convolutions over space and over time."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6
TEXT = 22


def sana_video_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text).long(),
        "timestep": (1000 * torch.rand(())).expand(batch),
    }


CASES = (
    Case(
        "SanaVideoTransformer3DModel",
        {
            "in_channels": CHANNELS,
            "out_channels": 4,
            "num_attention_heads": 3,
            "attention_head_dim": 14,
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 21,
            "cross_attention_dim": 42,
            "caption_channels": TEXT,
            "rope_max_seq_len": 32,
        },
        sana_video_inputs,
        # The fourth has as many text tokens as video tokens.
        (
            {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
            {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
            {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 5},
            {"batch": 2, "frames": 2, "height": 4, "width": 4, "text": 8},
        ),
    ),
)
