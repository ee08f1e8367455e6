"""Latte, whose blocks take turns in space and in time, and Allegro, which takes its positions as indices."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6
TEXT = 22
FRAMES = 3


def latte_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, FRAMES, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": torch.randint(1000, (1,)).expand(batch),
        "enable_temporal_attentions": True,
    }


def allegro_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    axes = [torch.arange(size) for size in (frames, height // 2, width // 2)]
    # Per axis, the cosine and the sine of the angles at every place on it.
    angles = [torch.rand(len(axis), 2).repeat(1, 2) for axis in axes]
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text).long(),
        "timestep": torch.randint(1000, ()).expand(batch),
        "image_rotary_emb": (
            tuple((angle.cos(), angle.sin()) for angle in angles),
            tuple(place[None] for place in torch.cartesian_prod(*axes).T),
        ),
    }


CASES = (
    Case(
        "LatteTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 14,
            "in_channels": CHANNELS,
            "out_channels": 4,
            "num_layers": 2,
            "cross_attention_dim": 28,
            "attention_bias": True,
            "sample_size": 32,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "caption_channels": TEXT,
            "video_length": FRAMES,
        },
        latte_inputs,
        # The fourth has as many text tokens as an image of the video has tokens.
        (
            {"batch": 1, "height": 4, "width": 6, "text": 7},
            {"batch": 2, "height": 4, "width": 6, "text": 7},
            {"batch": 3, "height": 8, "width": 4, "text": 5},
            {"batch": 2, "height": 6, "width": 6, "text": 9},
        ),
    ),
    Case(
        "AllegroTransformer3DModel",
        {
            "num_attention_heads": 3,
            "attention_head_dim": 12,
            "in_channels": CHANNELS,
            "out_channels": 4,
            "num_layers": 2,
            "cross_attention_dim": 36,
            "sample_height": 16,
            "sample_width": 20,
            "sample_frames": 4,
            "caption_channels": TEXT,
        },
        allegro_inputs,
        # The fourth has as many text tokens as video tokens.
        (
            {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
            {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
            {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 5},
            {"batch": 2, "frames": 2, "height": 6, "width": 4, "text": 12},
        ),
    ),
)
