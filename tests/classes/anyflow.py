"""AnyFlow: Wan for flow maps, which lead from one time to another."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 6
TEXT = 22


def anyflow_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    start, end = 1000 * torch.rand(2).sort(descending=True).values
    return {
        "hidden_states": torch.randn(batch, frames, CHANNELS, height, width),
        "timestep": start.expand(batch).unsqueeze(-1).repeat(1, frames),
        "r_timestep": end.expand(batch).unsqueeze(-1).repeat(1, frames),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
    }


ANYFLOW = {
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
    Case(
        "AnyFlowTransformer3DModel",
        ANYFLOW,
        anyflow_inputs,
        # The fourth has as many text tokens as video tokens.
        (
            {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
            {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
            {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 5},
            {"batch": 2, "frames": 2, "height": 4, "width": 4, "text": 8},
        ),
    ),
)
