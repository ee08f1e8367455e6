"""CogVideoX 1.0, which adds its positions, CogVideoX 1.5, which rotates by them, and ConsisID."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 6
TEXT = 22
HEAD = 16
FACES = 3


def cogvideo_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, frames, CHANNELS, height, width),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": torch.randint(1000, ()).expand(batch),
    }


def rotary(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.rand(tokens, HEAD // 2).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()


def rotary_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **cogvideo_inputs(batch, frames, height, width, text),
        "ofs": torch.full((1,), 2.0),
        "image_rotary_emb": rotary(frames // 2 * height * width // 4),
    }


def face_inputs(batch: int, face: int) -> dict[str, Any]:
    # All videos of a batch are of one person.
    return {
        **cogvideo_inputs(batch, 3, 4, 6, 7),
        "image_rotary_emb": rotary(18),
        "id_cond": torch.randn(1, 26),
        "id_vit_hidden": [torch.randn(1, face, 12) for _ in range(FACES)],
    }


COGVIDEO = {
    "num_attention_heads": 3,
    "attention_head_dim": HEAD,
    "in_channels": CHANNELS,
    "out_channels": 5,
    "time_embed_dim": 20,
    "text_embed_dim": TEXT,
    "num_layers": 2,
}

CASES = (
    Case(
        "CogVideoXTransformer3DModel",
        {**COGVIDEO, "max_text_seq_length": 12},
        cogvideo_inputs,
        # The configuration fixes the number of text tokens. The fourth has as many video tokens.
        (
            {"batch": 1, "frames": 3, "height": 4, "width": 6, "text": 12},
            {"batch": 2, "frames": 3, "height": 4, "width": 6, "text": 12},
            {"batch": 3, "frames": 1, "height": 8, "width": 4, "text": 12},
            {"batch": 2, "frames": 2, "height": 4, "width": 6, "text": 12},
        ),
    ),
    Case(
        "CogVideoXTransformer3DModel",
        {**COGVIDEO, "use_rotary_positional_embeddings": True, "patch_size_t": 2, "ofs_embed_dim": 20},
        rotary_inputs,
        (
            {"batch": 2, "frames": 6, "height": 4, "width": 6, "text": 7},
            {"batch": 1, "frames": 6, "height": 4, "width": 6, "text": 7},
            {"batch": 3, "frames": 2, "height": 8, "width": 4, "text": 5},
            {"batch": 2, "frames": 4, "height": 4, "width": 4, "text": 8},
        ),
        "rotary",
    ),
    Case(
        "ConsisIDTransformer3DModel",
        {
            **COGVIDEO,
            "num_layers": 4,
            # The learned positions fix the size of the video.
            "sample_width": 6,
            "sample_height": 4,
            "sample_frames": 9,
            "max_text_seq_length": 7,
            "use_rotary_positional_embeddings": True,
            "use_learned_positional_embeddings": True,
            "is_train_face": True,
            "cross_attn_dim_head": 10,
            "cross_attn_num_heads": 2,
            "LFE_id_dim": 26,
            "LFE_vit_dim": 12,
            "LFE_depth": 2 * FACES,
            "LFE_dim_head": 8,
            "LFE_num_heads": 2,
            "LFE_num_id_token": 2,
            "LFE_num_querie": 4,
            # Two thirds of the width of the model.
            "LFE_output_dim": 32,
            "LFE_ff_mult": 2,
            "LFE_num_scale": FACES,
            "local_face_scale": 0.5,
        },
        face_inputs,
        ({"batch": 1, "face": 9}, {"batch": 2, "face": 9}, {"batch": 3, "face": 5}, {"batch": 2, "face": 18}),
    ),
)
