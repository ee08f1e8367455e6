"""Wan, its VACE variant, ChronoEdit and SkyReels: video patches attend to themselves and then to the text."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 6
TEXT = 22
IMAGE = 20
# What the attention takes for the length of the text, where an image comes along.
TEXT_LENGTH = 512

# The fourth has as many text tokens as video tokens.
SIZES = (
    {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 5},
    {"batch": 2, "frames": 2, "height": 4, "width": 4, "text": 8},
)

IMAGE_SIZES = (
    {"batch": 1, "frames": 3, "height": 4, "width": 6, "image": 9},
    {"batch": 2, "frames": 3, "height": 4, "width": 6, "image": 9},
    {"batch": 3, "frames": 1, "height": 8, "width": 4, "image": 5},
    {"batch": 2, "frames": 4, "height": 2, "width": 8, "image": 16},
)


def wan_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "timestep": torch.randint(1000, ()).expand(batch),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
    }


def token_time_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # The tokens of the first frame, which is given, are at time 0.
    per_frame = height * width // 4
    timestep = 1000 * torch.rand(1) * (torch.arange(frames * per_frame) >= per_frame)
    return {
        **wan_inputs(batch, frames, height, width, text),
        "timestep": timestep.unsqueeze(0).expand(batch, -1),
    }


def image_inputs(batch: int, frames: int, height: int, width: int, image: int) -> dict[str, Any]:
    return {
        **wan_inputs(batch, frames, height, width, TEXT_LENGTH),
        "encoder_hidden_states_image": torch.randn(batch, image, IMAGE),
    }


def vace_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **wan_inputs(batch, frames, height, width, text),
        "control_hidden_states": torch.randn(batch, 10, frames, height, width),
        "control_hidden_states_scale": torch.tensor([1.0, 0.5, 0.75]),
    }


def forcing_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # Every frame is at a time of its own.
    return {
        **wan_inputs(batch, frames, height, width, text),
        "timestep": torch.randint(1000, (1, frames)).expand(batch, -1),
        "enable_diffusion_forcing": True,
        "fps": [1] * batch,
    }


WAN = {
    "in_channels": CHANNELS,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 14,
    "text_dim": TEXT,
    "freq_dim": 16,
    "ffn_dim": 40,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}

CASES = (
    Case("WanTransformer3DModel", WAN, wan_inputs, SIZES),
    Case("WanTransformer3DModel", WAN, token_time_inputs, SIZES, "ti2v"),
    Case(
        "WanTransformer3DModel",
        {**WAN, "image_dim": IMAGE, "added_kv_proj_dim": 28},
        image_inputs,
        (IMAGE_SIZES[1], IMAGE_SIZES[0], *IMAGE_SIZES[2:]),
        "i2v",
    ),
    Case(
        "WanVACETransformer3DModel",
        {**WAN, "num_layers": 4, "vace_layers": [0, 1, 3], "vace_in_channels": 10},
        vace_inputs,
        SIZES,
    ),
    Case(
        "ChronoEditTransformer3DModel",
        {**WAN, "attention_head_dim": 12, "image_dim": IMAGE, "added_kv_proj_dim": 24},
        image_inputs,
        IMAGE_SIZES,
    ),
    Case("SkyReelsV2Transformer3DModel", WAN, wan_inputs, SIZES),
    Case(
        "SkyReelsV2Transformer3DModel",
        {**WAN, "num_frame_per_block": 2},
        forcing_inputs,
        (
            {"batch": 1, "frames": 4, "height": 4, "width": 6, "text": 7},
            {"batch": 2, "frames": 4, "height": 4, "width": 6, "text": 7},
            {"batch": 3, "frames": 2, "height": 8, "width": 4, "text": 5},
            {"batch": 2, "frames": 6, "height": 2, "width": 4, "text": 12},
        ),
        "forcing",
    ),
)
