"""Wan-Animate: a character moves as a pose video and a face video say."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.wan import WAN, image_inputs

LATENTS = 5
FACE = 16


def animate_inputs(batch: int, frames: int, height: int, width: int, image: int) -> dict[str, Any]:
    # One more latent frame, of the reference image; a latent frame is four of the face video, except for the first.
    return {
        **image_inputs(batch, frames + 1, height, width, image),
        "hidden_states": torch.randn(batch, 2 * LATENTS + 4, frames + 1, height, width),
        "pose_hidden_states": torch.randn(batch, LATENTS, frames, height, width),
        "face_pixel_values": torch.rand(batch, 3, 4 * frames - 3, FACE, FACE) * 2 - 1,
    }


CASES = (
    Case(
        "WanAnimateTransformer3DModel",
        {
            **WAN,
            "in_channels": 2 * LATENTS + 4,
            "latent_channels": LATENTS,
            "num_layers": 4,
            "inject_face_latents_blocks": 2,
            "image_dim": 20,
            "added_kv_proj_dim": 28,
            "motion_encoder_channel_sizes": {"4": 6, "8": 8, "16": 10},
            "motion_encoder_size": FACE,
            "motion_style_dim": 12,
            "motion_dim": 4,
            "motion_encoder_dim": 18,
            "face_encoder_hidden_dim": 16,
            "face_encoder_num_heads": 3,
        },
        animate_inputs,
        # The face videos go through their encoder in two pieces: of 8 frames, and of what is left.
        (
            {"batch": 1, "frames": 3, "height": 4, "width": 6, "image": 9},
            {"batch": 2, "frames": 2, "height": 4, "width": 6, "image": 9},
            {"batch": 1, "frames": 4, "height": 8, "width": 4, "image": 5},
            {"batch": 3, "frames": 2, "height": 2, "width": 8, "image": 12},
        ),
    ),
)
