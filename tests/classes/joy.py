"""JoyImage-Edit and JoyImage-Edit-Plus: an image and its references as frames of a video."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 4
TEXT = 20


def edit_inputs(batch: int, items: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, items, CHANNELS, 1, height, width),
        "timestep": torch.rand(batch) * 1000,
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
    }


def video_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "timestep": torch.rand(batch) * 1000,
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
    }


def plus_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    # Sample i has i references of two patches each, so that all but the last are padded.
    shapes = [[(1, height, width), *[(1, 1, 2)] * i] for i in range(batch)]
    hidden_states = torch.randn(batch, height * width + 2 * (batch - 1), CHANNELS, 1, 2, 2)
    for i in range(batch - 1):
        hidden_states[i, height * width + 2 * i :] = 0
    return {
        "hidden_states": hidden_states,
        "timestep": torch.rand(batch) * 1000,
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_hidden_states_mask": prefix_mask(batch, text).long(),
        "shape_list": shapes,
    }


JOY = {
    "patch_size": [1, 2, 2],
    "in_channels": CHANNELS,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "text_dim": TEXT,
    "mlp_width_ratio": 2.0,
    "num_layers": 2,
    "rope_dim_list": [4, 2, 2],
}

CASES = (
    Case(
        "JoyImageEditTransformer3DModel",
        JOY,
        edit_inputs,
        (
            {"batch": 1, "items": 2, "height": 8, "width": 6, "text": 7},
            {"batch": 2, "items": 2, "height": 8, "width": 6, "text": 7},
            {"batch": 3, "items": 3, "height": 4, "width": 10, "text": 5},
            {"batch": 2, "items": 2, "height": 4, "width": 6, "text": 12},
        ),
    ),
    Case(
        "JoyImageEditTransformer3DModel",
        {**JOY, "rope_type": "mrope"},
        video_inputs,
        (
            {"batch": 2, "frames": 1, "height": 8, "width": 6, "text": 7},
            {"batch": 1, "frames": 1, "height": 8, "width": 6, "text": 7},
            {"batch": 3, "frames": 3, "height": 4, "width": 10, "text": 5},
            {"batch": 4, "frames": 2, "height": 4, "width": 6, "text": 12},
        ),
        "video-mrope",
    ),
    Case(
        "JoyImageEditPlusTransformer3DModel",
        JOY,
        plus_inputs,
        (
            {"batch": 2, "height": 4, "width": 3, "text": 7},
            {"batch": 1, "height": 4, "width": 3, "text": 7},
            {"batch": 3, "height": 2, "width": 5, "text": 5},
            {"batch": 2, "height": 3, "width": 3, "text": 11},
        ),
    ),
)
