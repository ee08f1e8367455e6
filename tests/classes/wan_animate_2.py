"""Wan-Animate-2, as it reads the driving video: what every layer makes of it goes into a cache."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

from tests.classes.case import Case

CHANNELS = 5
TEXT = 22
LAYERS = 2


def reference_inputs(frames: int, height: int, width: int, text: int, image: int) -> dict[str, Any]:
    return {
        "hidden_states": [torch.randn(CHANNELS, frames, height, width)],
        "timestep": 1000 * torch.rand(1),
        "encoder_hidden_states": [torch.randn(text, TEXT)],
        "encoder_hidden_states_image": torch.randn(1, image, 1280),
        "condition_latents": [torch.randn(CHANNELS + 4, frames, height, width)],
        "kv_cache": WanAnimate2KVCache(LAYERS),
        "kv_cache_mode": "extract",
        "seq_len": frames * height * width // 4,
        "offset_grid_sizes": torch.tensor([[frames, height // 2, width // 2]]),
    }


CASES = (
    Case(
        "WanAnimate2Transformer3DModel",
        {
            "text_len": 12,
            "in_dim": 2 * CHANNELS + 4,
            "dim": 28,
            "ffn_dim": 40,
            "freq_dim": 16,
            "text_dim": TEXT,
            "out_dim": CHANNELS,
            "num_heads": 2,
            "num_layers": LAYERS,
        },
        reference_inputs,
        (
            {"frames": 3, "height": 4, "width": 6, "text": 7, "image": 9},
            {"frames": 3, "height": 4, "width": 6, "text": 11, "image": 9},
            {"frames": 1, "height": 8, "width": 4, "text": 5, "image": 4},
            {"frames": 3, "height": 4, "width": 4, "text": 12, "image": 12},
        ),
    ),
)
