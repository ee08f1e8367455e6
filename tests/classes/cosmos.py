"""Cosmos, as Predict calls it and as Transfer 2.5 does: with a control, a time per frame and a picture."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 6
TEXT = 22
WIDTH = 28

# The fourth has as many text tokens as video tokens.
SIZES = (
    {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 5},
    {"batch": 2, "frames": 2, "height": 4, "width": 4, "text": 8},
)


def cosmos_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "timestep": torch.rand(()).expand(batch),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "fps": 16,
    }


def transfer_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # The first frame is given.
    given = (torch.arange(frames) == 0).float().reshape(1, 1, frames, 1, 1).expand(batch, -1, -1, -1, -1)
    tokens = frames * height * width // 4
    return {
        "hidden_states": torch.randn(batch, CHANNELS, frames, height, width),
        "timestep": 0.1 * given + (1 - given) * torch.rand(()),
        "encoder_hidden_states": (torch.randn(batch, text, 18), torch.zeros(batch, 5, 10)),
        "block_controlnet_hidden_states": [torch.randn(batch, tokens, WIDTH) for _ in range(2)],
        "condition_mask": given.expand(-1, -1, -1, height, width).contiguous(),
    }


COSMOS = {
    "in_channels": CHANNELS,
    "out_channels": 5,
    "num_attention_heads": 2,
    "attention_head_dim": WIDTH // 2,
    "num_layers": 2,
    "mlp_ratio": 2.0,
    "text_embed_dim": TEXT,
    "adaln_lora_dim": 8,
    "max_size": (6, 16, 16),
    # The mask would take torchvision.
    "concat_padding_mask": False,
}

CASES = (
    Case("CosmosTransformer3DModel", COSMOS, cosmos_inputs, SIZES),
    Case(
        "CosmosTransformer3DModel",
        {
            **COSMOS,
            "in_channels": CHANNELS + 1,
            "num_layers": 4,
            "extra_pos_embed_type": None,
            "use_crossattn_projection": True,
            "crossattn_proj_in_channels": 18,
            "encoder_hidden_states_channels": TEXT,
            "controlnet_block_every_n": 2,
            "img_context_dim_in": 10,
            "img_context_num_tokens": 5,
            "img_context_dim_out": WIDTH,
        },
        transfer_inputs,
        (SIZES[1], SIZES[0], *SIZES[2:]),
        "transfer",
    ),
)
