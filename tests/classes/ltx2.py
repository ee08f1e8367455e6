"""LTX-2, video and audio together, and the transformer of SANA-WM's refiner, which takes its video half."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import grid_ids, prefix_mask

CHANNELS = 10
AUDIO = 6
TEXT = 20

# The fourth has as many text and audio tokens as video tokens.
SIZES = (
    {"batch": 1, "frames": 3, "height": 4, "width": 6, "audio": 11, "text": 7},
    {"batch": 2, "frames": 3, "height": 4, "width": 6, "audio": 11, "text": 7},
    {"batch": 3, "frames": 2, "height": 5, "width": 3, "audio": 5, "text": 9},
    {"batch": 2, "frames": 1, "height": 3, "width": 4, "audio": 12, "text": 12},
)


def base_inputs(batch: int, frames: int, height: int, width: int, audio: int, text: int) -> dict[str, Any]:
    timestep = 1000 * torch.rand(1).expand(batch)
    mask = prefix_mask(batch, text).long()
    return {
        "hidden_states": torch.randn(batch, frames * height * width, CHANNELS),
        "audio_hidden_states": torch.randn(batch, audio, AUDIO),
        "timestep": timestep,
        "sigma": timestep,
        "encoder_attention_mask": mask,
        "audio_encoder_attention_mask": mask,
        "num_frames": frames,
        "height": height,
        "width": width,
        "fps": 24.0,
        "audio_num_frames": audio,
        "isolate_modalities": False,
        "spatio_temporal_guidance_blocks": None,
        "perturbation_mask": None,
        "attention_kwargs": None,
    }


def ltx2_inputs(batch: int, frames: int, height: int, width: int, audio: int, text: int) -> dict[str, Any]:
    # Coordinates are where patches start and end, in seconds and pixels.
    area = grid_ids(height, width).T.repeat(1, frames)
    area[0] = torch.arange(frames).repeat_interleave(height * width)
    starts = area * torch.tensor([[8 / 24], [32], [32]])
    ends = (area + 1) * torch.tensor([[8 / 24], [32], [32]])
    sounds = torch.stack([torch.arange(audio), torch.arange(1, audio + 1)], dim=-1) * 0.04
    return {
        **base_inputs(batch, frames, height, width, audio, text),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "audio_encoder_hidden_states": torch.randn(batch, text, TEXT),
        "video_coords": torch.stack([starts, ends], dim=-1).repeat(batch, 1, 1, 1),
        "audio_coords": sounds.repeat(batch, 1, 1, 1),
        "use_cross_timestep": False,
    }


def ltx23_inputs(batch: int, frames: int, height: int, width: int, audio: int, text: int) -> dict[str, Any]:
    # The first frame is given: its tokens are at time 0.
    inputs = base_inputs(batch, frames, height, width, audio, text)
    made = torch.arange(frames * height * width) >= height * width
    return {
        **inputs,
        "encoder_hidden_states": torch.randn(batch, text, 40),
        "audio_encoder_hidden_states": torch.randn(batch, text, 24),
        "timestep": inputs["timestep"][:, None] * made,
        "audio_timestep": inputs["timestep"],
        "audio_sigma": inputs["timestep"],
        "use_cross_timestep": True,
    }


def refiner_inputs(batch: int, tokens: int, text: int) -> dict[str, Any]:
    # Prompts are padded on the left; angles are split over 4 heads.
    angles = 6 * torch.rand(4, tokens, 5).expand(batch, 4, tokens, 5)
    return {
        "hidden_states": torch.randn(batch, tokens, CHANNELS),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": torch.full((batch, tokens), 909.375),
        "video_rotary_emb": (angles.cos(), angles.sin()),
        "encoder_attention_mask": prefix_mask(batch, text).flip(1).long(),
    }


LTX2 = {
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_attention_heads": 4,
    "attention_head_dim": 10,
    "cross_attention_dim": 40,
    "audio_in_channels": AUDIO,
    "audio_out_channels": AUDIO,
    "audio_num_attention_heads": 3,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 24,
    "num_layers": 2,
    "caption_channels": TEXT,
}

SPLIT = {**LTX2, "audio_num_attention_heads": 4, "audio_attention_head_dim": 6, "rope_type": "split"}

CASES = (
    Case("LTX2VideoTransformer3DModel", LTX2, ltx2_inputs, SIZES),
    Case(
        "LTX2VideoTransformer3DModel",
        {
            **SPLIT,
            "gated_attn": True,
            "cross_attn_mod": True,
            "audio_gated_attn": True,
            "audio_cross_attn_mod": True,
            "use_prompt_embeddings": False,
            "perturbed_attn": True,
        },
        ltx23_inputs,
        (SIZES[1], SIZES[0], *SIZES[2:]),
        "gated",
    ),
    Case(
        "SanaWMLTX2RefinerTransformer3DModel",
        SPLIT,
        refiner_inputs,
        (
            {"batch": 1, "tokens": 30, "text": 7},
            {"batch": 2, "tokens": 30, "text": 7},
            {"batch": 3, "tokens": 14, "text": 9},
            {"batch": 2, "tokens": 12, "text": 12},
        ),
    ),
)
