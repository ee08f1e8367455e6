"""MiniMax-H3: text, audio and video as rows of one packed sequence, whose layout comes as indices."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import grid_ids

CHANNELS = 3
AUDIO = 10
TEXT = 20


def h3_inputs(batch: int, frames: int, height: int, width: int, audio: int, text: int) -> dict[str, Any]:
    # Text, the image, whose timestep is another, audio and video.
    area = height * width
    rows = torch.arange(text + area + audio + frames * area)
    texts, image, sound, video = rows.split([text, area, audio, frames * area])
    positions = torch.zeros(len(rows), 3, dtype=torch.float64)
    positions[texts, 0] = texts.double()
    positions[sound, 0] = text + torch.arange(audio).double()
    for frame, tokens in enumerate([image, *video.split(area)]):
        positions[tokens] = grid_ids(height, width, first=text + frame).double()
    tags = torch.zeros_like(rows)
    tags[texts] = 1
    tags[sound] = 2
    steps = torch.zeros_like(rows)
    steps[texts] = 1
    steps[image] = 1
    return {
        "hidden_states": torch.randn(batch, (frames + 1) * area, 4 * CHANNELS),
        "audio_hidden_states": torch.randn(batch, audio, AUDIO),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": torch.tensor([0.25, 1.0]),
        "timestep_indices": steps,
        "token_tags": tags,
        "position_ids": positions,
        "video_indices": torch.cat([image, video]),
        "audio_indices": sound,
        "text_indices": texts,
        "attention_kwargs": None,
    }


CASES = (
    Case(
        "MiniMaxH3Transformer3DModel",
        {
            "num_attention_heads": 3,
            "attention_head_dim": 14,
            "hidden_size": 32,
            "num_layers": 2,
            "num_refiner_layers": 2,
            "ffn_dim": 40,
            "in_channels": CHANNELS,
            "audio_in_channels": AUDIO,
            "text_dim": TEXT,
            "freq_dim": 16,
            "time_embed_hidden_dim": 24,
            "time_embed_dim": 18,
            "rope_freq_dim": 2,
        },
        h3_inputs,
        (
            {"batch": 1, "frames": 3, "height": 2, "width": 3, "audio": 5, "text": 7},
            {"batch": 2, "frames": 3, "height": 2, "width": 3, "audio": 5, "text": 7},
            {"batch": 1, "frames": 2, "height": 4, "width": 2, "audio": 8, "text": 11},
            {"batch": 3, "frames": 1, "height": 2, "width": 2, "audio": 4, "text": 4},
        ),
    ),
)
