"""Kandinsky 5 and 6: channels come last, positions as indices along every axis."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6
TEXT = 20
POOLED = 14
AUDIO = 10

# The fourth has as many text tokens as video tokens.
SIZES = (
    {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 9},
    {"batch": 2, "frames": 3, "height": 4, "width": 4, "text": 12},
)


def video_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, frames, height, width, 2 * CHANNELS + 1),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "pooled_projections": torch.randn(batch, POOLED),
        "timestep": torch.full((batch,), 875.0),
    }


def kandinsky5_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **video_inputs(batch, frames, height, width, text),
        "visual_rope_pos": [torch.arange(frames), torch.arange(height // 2), torch.arange(width // 2)],
        "text_rope_pos": torch.arange(text),
        "scale_factor": (1.0, 2.0, 2.0),
        "sparse_params": None,
    }


def audio_inputs(batch: int, frames: int, height: int, width: int, text: int, audio: int) -> dict[str, Any]:
    return {
        **video_inputs(batch, frames, height, width, text),
        "audio_hidden_states": torch.randn(batch, audio, AUDIO),
        "encoder_attention_mask": prefix_mask(batch, text),
    }


def reference_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # The reference comes after the frames and takes the position of the first.
    types = torch.zeros(batch, frames + 1, dtype=torch.long)
    types[:, -1] = 1
    return {
        **video_inputs(batch, frames + 1, height, width, text),
        "visual_rope_pos": (
            torch.cat([torch.arange(frames), torch.zeros(1, dtype=torch.long)]),
            torch.arange(height // 2),
            torch.arange(width // 2),
        ),
        "visual_token_type_ids": types,
    }


def tile_inputs(batch: int, frames: int, height: int, width: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, frames, height, width, 2 * CHANNELS + 1),
        "timestep": torch.full((batch,), 875.0),
    }


KANDINSKY = {
    "in_visual_dim": CHANNELS,
    "in_text_dim": TEXT,
    "in_text_dim2": POOLED,
    "time_dim": 24,
    "out_visual_dim": CHANNELS,
    "model_dim": 32,
    "ff_dim": 40,
    "num_text_blocks": 2,
    "num_visual_blocks": 2,
    "axes_dims": (4, 4, 8),
    "visual_cond": True,
}

KANDINSKY6 = {
    **KANDINSKY,
    "in_audio_dim": AUDIO,
    "out_audio_dim": AUDIO,
    "model_dim_a": 36,
    "time_dim_a": 28,
    "ff_dim_a": 44,
    "axes_dims_a": (4, 4, 4),
}

CASES = (
    Case("Kandinsky5Transformer3DModel", KANDINSKY, kandinsky5_inputs, SIZES),
    Case(
        "Kandinsky6Transformer3DModel",
        {**KANDINSKY6, "cross_gates": True, "fix_modulation": True},
        audio_inputs,
        (
            {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 7, "audio": 11},
            {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 7, "audio": 11},
            {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 9, "audio": 5},
            {"batch": 2, "frames": 3, "height": 4, "width": 4, "text": 12, "audio": 12},
        ),
    ),
    Case(
        "Kandinsky6Transformer3DModel",
        {**KANDINSKY6, "visual_token_type_num_embeddings": 2},
        reference_inputs,
        SIZES,
        "reference",
    ),
    Case(
        "Kandinsky6SRTransformer3DModel",
        {
            "in_visual_dim": CHANNELS,
            "out_visual_dim": 8,
            "time_dim": 24,
            "model_dim": 32,
            "ff_dim": 40,
            "num_visual_blocks": 2,
            "axes_dims": (4, 4, 8),
            "nabla_window": (1, 1, 3),
        },
        tile_inputs,
        (
            {"batch": 1, "frames": 2, "height": 8, "width": 16},
            {"batch": 2, "frames": 2, "height": 8, "width": 16},
            {"batch": 3, "frames": 1, "height": 16, "width": 8},
            {"batch": 2, "frames": 2, "height": 8, "width": 8},
        ),
    ),
)
