"""Stable Audio, Stable Audio 3, ACE-Step and LongCat-AudioDiT: sequences of audio latents."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 6
TEXT = 20
GLOBAL = 18

# The fourth has as many text tokens as audio tokens.
SIZES = (
    {"batch": 1, "length": 14, "text": 5},
    {"batch": 2, "length": 14, "text": 5},
    {"batch": 3, "length": 9, "text": 11},
    {"batch": 2, "length": 8, "text": 8},
)
BATCHED_SIZES = (SIZES[1], SIZES[0], *SIZES[2:])


def stable_inputs(batch: int, length: int, text: int) -> dict[str, Any]:
    # Half of the head dimension is rotated, at one position more for the global token.
    return {
        "hidden_states": torch.randn(batch, CHANNELS, length),
        "timestep": torch.rand(1),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "global_hidden_states": torch.randn(batch, 1, GLOBAL),
        "rotary_embedding": get_1d_rotary_pos_embed(6, length + 1, use_real=True, repeat_interleave_real=False),
    }


def stable3_inputs(batch: int, length: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, length),
        "timestep": torch.rand(batch),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "global_hidden_states": torch.randn(batch, GLOBAL),
        "encoder_attention_mask": prefix_mask(batch, text),
        "local_add_cond": torch.randn(batch, CHANNELS + 1, length),
    }


def patched_inputs(batch: int, length: int, text: int) -> dict[str, Any]:
    inputs = stable3_inputs(batch, 2 * length, text)
    del inputs["local_add_cond"]
    return inputs


def ace_inputs(batch: int, length: int, text: int) -> dict[str, Any]:
    time = torch.rand(batch)
    return {
        "hidden_states": torch.randn(batch, length, CHANNELS),
        "timestep": time,
        "timestep_r": time,
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "context_latents": torch.cat([torch.randn(batch, length, 4), torch.ones(batch, length, 4)], dim=-1),
    }


def longcat_inputs(batch: int, length: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, length, CHANNELS),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_attention_mask": prefix_mask(batch, text),
        "timestep": torch.rand(batch),
        "attention_mask": prefix_mask(batch, length),
        "latent_cond": torch.zeros(batch, length, CHANNELS),
    }


STABLE3 = {
    "io_channels": CHANNELS,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "cond_token_dim": TEXT,
    "global_cond_dim": GLOBAL,
    "local_add_cond_dim": CHANNELS + 1,
    "timestep_features_dim": 16,
    "ff_mult": 2.0,
    "num_memory_tokens": 4,
}

CASES = (
    Case(
        "StableAudioDiTModel",
        {
            "sample_size": 14,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "num_layers": 2,
            "attention_head_dim": 12,
            "num_attention_heads": 4,
            "num_key_value_attention_heads": 2,
            "cross_attention_dim": 24,
            "time_proj_dim": 16,
            "global_states_input_dim": GLOBAL,
            "cross_attention_input_dim": TEXT,
        },
        stable_inputs,
        SIZES,
    ),
    Case("StableAudio3DiTModel", STABLE3, stable3_inputs, SIZES),
    Case(
        "StableAudio3DiTModel",
        {**STABLE3, "patch_size": 2, "num_memory_tokens": 0, "use_differential_attention": False},
        patched_inputs,
        BATCHED_SIZES,
        "patched",
    ),
    Case(
        "AceStepTransformer1DModel",
        {
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "in_channels": CHANNELS + 8,
            "audio_acoustic_hidden_dim": CHANNELS,
            "sliding_window": 2,
            "encoder_hidden_size": TEXT,
        },
        ace_inputs,
        SIZES,
    ),
    Case(
        "LongCatAudioDiTTransformer",
        {
            "dit_dim": 24,
            "dit_depth": 2,
            "dit_heads": 3,
            "dit_text_dim": TEXT,
            "latent_dim": CHANNELS,
            "ff_mult": 2.0,
        },
        longcat_inputs,
        BATCHED_SIZES,
    ),
)
