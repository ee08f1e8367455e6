"""LTX-Video: packed latents, rotary embeddings from sizes or from coordinates of the tokens."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 10
TEXT = 20

# The fourth has as many text tokens as video tokens.
SIZES = (
    {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "frames": 2, "height": 5, "width": 3, "text": 9},
    {"batch": 2, "frames": 1, "height": 3, "width": 4, "text": 12},
)


def text_inputs(batch: int, text: int) -> dict[str, Any]:
    return {
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text),
    }


def ltx_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, frames * height * width, CHANNELS),
        **text_inputs(batch, text),
        "timestep": 1000 * torch.rand(1).expand(batch),
        "num_frames": frames,
        "height": height,
        "width": width,
        "rope_interpolation_scale": (8 / 25, 32, 32),
        "attention_kwargs": None,
    }


def conditioned_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # The first frame is given: its tokens are at time 0.
    tokens = frames * height * width
    given = (torch.arange(tokens) < height * width).float().expand(batch, tokens)
    axes = torch.arange(frames) * 8 / 25, torch.arange(height) * 32.0, torch.arange(width) * 32.0
    coords = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    return {
        "hidden_states": torch.randn(batch, tokens, CHANNELS),
        **text_inputs(batch, text),
        "timestep": torch.min(1000 * torch.rand(batch, 1), (1 - given) * 1000),
        "video_coords": coords.repeat(batch, 1, 1),
    }


LTX = {
    "in_channels": CHANNELS,
    "out_channels": 8,
    "num_attention_heads": 4,
    "attention_head_dim": 10,
    "cross_attention_dim": 40,
    "num_layers": 2,
    "caption_channels": TEXT,
}

CASES = (
    Case("LTXVideoTransformer3DModel", LTX, ltx_inputs, SIZES),
    Case("LTXVideoTransformer3DModel", LTX, conditioned_inputs, (SIZES[1], SIZES[0], *SIZES[2:]), "conditioned"),
)
