"""Helios: the video goes on from a history, of which older frames are in larger patches."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 6
TEXT = 22
# Frames of the history: long ago, a while ago, and just now with the very first one in front.
LONG, MID, SHORT = 4, 2, 2


def helios_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    indices = torch.arange(1 + LONG + MID + SHORT - 1 + frames)
    first, long, mid, last, now = torch.split(indices, [1, LONG, MID, SHORT - 1, frames])
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "timestep": (1000 * torch.rand(())).expand(batch),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "indices_hidden_states": now.unsqueeze(0),
        "indices_latents_history_short": torch.cat([first, last]).unsqueeze(0),
        "indices_latents_history_mid": mid.unsqueeze(0),
        "indices_latents_history_long": long.unsqueeze(0),
        "latents_history_short": torch.randn(batch, CHANNELS, SHORT, height, width),
        "latents_history_mid": torch.randn(batch, CHANNELS, MID, height, width),
        "latents_history_long": torch.randn(batch, CHANNELS, LONG, height, width),
    }


CASES = (
    Case(
        "HeliosTransformer3DModel",
        {
            "in_channels": CHANNELS,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 14,
            "text_dim": TEXT,
            "freq_dim": 16,
            "ffn_dim": 40,
            "num_layers": 2,
            "rope_dim": (6, 4, 4),
            "is_amplify_history": True,
        },
        helios_inputs,
        # The fourth has as many text tokens as video tokens.
        (
            {"batch": 1, "frames": 3, "height": 8, "width": 12, "text": 7},
            {"batch": 2, "frames": 3, "height": 8, "width": 12, "text": 7},
            {"batch": 3, "frames": 1, "height": 16, "width": 4, "text": 5},
            {"batch": 2, "frames": 2, "height": 8, "width": 8, "text": 32},
        ),
    ),
)
