"""The three generations of Bria's transformers."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import grid_ids, prefix_mask

CHANNELS = 6
TEXT = 20
LAYERS = 2

SIZES = (
    {"batch": 1, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "height": 5, "width": 3, "text": 9},
    {"batch": 2, "height": 3, "width": 4, "text": 12},
    {"batch": 6, "height": 2, "width": 3, "text": 6},
)


def bria_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, height * width, CHANNELS),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": torch.rand(batch) * 1000,
        "img_ids": grid_ids(height, width),
        "txt_ids": torch.zeros(batch, text, 3),
    }


def fibo_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    mask = torch.cat([prefix_mask(batch, text), torch.ones(batch, height * width, dtype=torch.bool)], dim=1)
    return {
        **bria_inputs(batch, height, width, text),
        "txt_ids": torch.zeros(text, 3),
        "text_encoder_layers": [torch.randn(batch, text, 10) for _ in range(2 * LAYERS)],
        "joint_attention_kwargs": {"attention_mask": mask[:, None, None, :]},
    }


def fibo2_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timestep": torch.rand(batch),
        # One bundle of features for the perceiver and one for each of the two injection layers.
        "encoder_hidden_states": torch.randn(batch, 3, text, TEXT),
    }


def fibo2_edit_inputs(batch: int, height: int, width: int, text: int, reference: int) -> dict[str, Any]:
    return {
        **fibo2_inputs(batch, height, width, text),
        "encoder_attention_mask": prefix_mask(batch, text),
        "context_latents": [torch.randn(batch, CHANNELS, 4, 2 * reference)],
    }


BRIA = {
    "in_channels": CHANNELS,
    "num_layers": LAYERS,
    "num_single_layers": LAYERS,
    "attention_head_dim": 10,
    "num_attention_heads": 3,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": [2, 4, 4],
}

FIBO2 = {
    "in_channels": CHANNELS,
    "dim": 30,
    "n_layers": 4,
    "n_refiner_layers": 2,
    "n_heads": 3,
    "cap_feat_dim": TEXT,
    "injection_layer_ids": (1, 3),
    "perceiver_num_layers": 2,
    "min_num_gist_tokens": 3,
    "max_num_gist_tokens": 9,
    "gist_step": 3,
    "gist_min_text_len": 4,
    "gist_max_text_len": 16,
    "axes_dims": (2, 4, 4),
    "axes_lens": (16, 12, 12),
}

CASES = (
    Case("BriaTransformer2DModel", BRIA, bria_inputs, SIZES),
    Case("BriaFiboTransformer2DModel", {**BRIA, "text_encoder_dim": 10}, fibo_inputs, SIZES),
    Case(
        "BriaFibo2Transformer2DModel",
        FIBO2,
        fibo2_inputs,
        (
            {"batch": 1, "height": 6, "width": 8, "text": 7},
            {"batch": 2, "height": 6, "width": 8, "text": 7},
            {"batch": 3, "height": 8, "width": 4, "text": 14},
            {"batch": 2, "height": 6, "width": 6, "text": 3},
        ),
    ),
    Case(
        "BriaFibo2Transformer2DModel",
        FIBO2,
        fibo2_edit_inputs,
        # Rows of the mask keep 11 and 10 tokens of 12: the counts of gist tokens then differ within a batch.
        (
            {"batch": 2, "height": 6, "width": 8, "text": 12, "reference": 3},
            {"batch": 1, "height": 6, "width": 8, "text": 12, "reference": 3},
            {"batch": 3, "height": 8, "width": 4, "text": 12, "reference": 2},
            {"batch": 2, "height": 6, "width": 6, "text": 8, "reference": 1},
        ),
        "edit",
    ),
)
