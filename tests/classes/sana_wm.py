"""Sana-WM: linear and softmax attention take turns, and a camera on its way through the scene steers both."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6
TEXT = 22
RAYS = 9


def cameras(batch: int, frames: int, height: int, width: int) -> torch.Tensor:
    """Per frame, where the camera is as a 4 x 4 matrix, its focal lengths and the middle of its picture."""
    turn = 0.3 * torch.randn(frames, 3, 3)
    pose = torch.eye(4).repeat(frames, 1, 1)
    pose[:, :3, :3] = torch.linalg.matrix_exp(turn - turn.mT)
    pose[:, :3, 3] = torch.randn(frames, 3)
    lens = torch.tensor([0.8 * width, 0.9 * width, width / 2, height / 2]).repeat(frames, 1)
    return torch.cat([pose.flatten(1), lens], dim=1).repeat(batch, 1, 1)


def sana_wm_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # The first frame is given.
    timestep = 1000 * torch.rand(()) * (torch.arange(frames) > 0)
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "timestep": timestep.expand(batch, 1, frames),
        "encoder_hidden_states": torch.randn(batch, 1, text, TEXT),
        "mask": prefix_mask(batch, text).long(),
        "data_info": {"img_hw": torch.tensor([[32.0 * height, 32.0 * width]])},
        "camera_conditions": cameras(batch, frames, height, width),
        "chunk_plucker": torch.randn(batch, RAYS, frames, height, width),
    }


CASES = (
    Case(
        "SanaWMTransformer3DModel",
        {
            "in_channels": CHANNELS,
            "num_layers": 4,
            "hidden_size": 48,
            "num_attention_heads": 3,
            "softmax_every_n": 2,
            "linear_head_dim": 24,
            "chunk_plucker_channels": RAYS,
            "caption_channels": TEXT,
            "mlp_ratio": 1.5,
        },
        sana_wm_inputs,
        # The fourth has as many text tokens as video tokens.
        (
            {"batch": 1, "frames": 3, "height": 3, "width": 4, "text": 7},
            {"batch": 2, "frames": 3, "height": 3, "width": 4, "text": 7},
            {"batch": 3, "frames": 3, "height": 5, "width": 2, "text": 5},
            {"batch": 2, "frames": 4, "height": 2, "width": 3, "text": 24},
        ),
    ),
)
