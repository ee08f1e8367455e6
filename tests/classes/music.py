"""MiniMax Music 3 and the decoder of the spectrogram diffusion pipeline."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6


def music_inputs(batch: int, length: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, length),
        "timestep": torch.rand(batch),
        "encoder_hidden_states": torch.randn(batch, length, 10),
    }


def depth_inputs(batch: int, steps: int) -> dict[str, Any]:
    return {"inputs_embeds": torch.randn(batch, steps, 24)}


def film_inputs(batch: int, length: int, notes: int, context: int) -> dict[str, Any]:
    return {
        "encodings_and_masks": [
            (torch.randn(batch, notes, 20), prefix_mask(batch, notes)),
            (torch.randn(batch, context, 20), torch.zeros(batch, context, dtype=torch.bool)),
        ],
        "decoder_input_tokens": torch.randn(batch, length, CHANNELS),
        "decoder_noise_time": torch.rand(batch),
    }


CASES = (
    Case(
        "MiniMaxMusic3Transformer1DModel",
        {
            "in_channels": CHANNELS,
            "condition_dim": 10,
            "num_layers": 2,
            "num_attention_heads": 3,
            "attention_head_dim": 10,
            "ff_inner_dim": 40,
            "rotary_dim": 4,
            "fourier_embedding_dim": 16,
        },
        music_inputs,
        (
            {"batch": 2, "length": 13},
            {"batch": 1, "length": 13},
            {"batch": 3, "length": 9},
            {"batch": 2, "length": 1},
        ),
    ),
    Case(
        "MiniMaxMusic3RVQDepthDecoder",
        {
            "hidden_size": 24,
            "num_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "audio_vocab_size": 11,
            "num_codebooks": 4,
        },
        depth_inputs,
        (
            {"batch": 1, "steps": 2},
            {"batch": 2, "steps": 3},
            {"batch": 3, "steps": 8},
            {"batch": 2, "steps": 1},
        ),
    ),
    Case(
        "T5FilmDecoder",
        {
            "input_dims": CHANNELS,
            "targets_length": 16,
            "d_model": 20,
            "num_layers": 2,
            "num_heads": 3,
            "d_kv": 8,
            "d_ff": 36,
        },
        film_inputs,
        (
            {"batch": 1, "length": 12, "notes": 7, "context": 5},
            {"batch": 2, "length": 12, "notes": 7, "context": 5},
            {"batch": 3, "length": 16, "notes": 11, "context": 1},
            {"batch": 2, "length": 8, "notes": 8, "context": 8},
        ),
    ),
)
