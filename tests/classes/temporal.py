"""The transformer over frames of the first video UNets: frames lie on the batch axis."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 12


def temporal_inputs(batch: int, frames: int, height: int, width: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch * frames, CHANNELS, height, width),
        "num_frames": frames,
        "cross_attention_kwargs": None,
    }


CASES = (
    Case(
        "TransformerTemporalModel",
        {
            "num_attention_heads": 3,
            "attention_head_dim": 8,
            "in_channels": CHANNELS,
            "num_layers": 2,
            "norm_num_groups": 4,
        },
        temporal_inputs,
        (
            {"batch": 1, "frames": 5, "height": 4, "width": 6},
            {"batch": 2, "frames": 5, "height": 4, "width": 6},
            {"batch": 3, "frames": 7, "height": 5, "width": 3},
            {"batch": 2, "frames": 2, "height": 2, "width": 2},
        ),
    ),
)
