"""Z-Image: lists of images and of prompts, each of its own length."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case

CHANNELS = 4
TEXT = 20
SIGLIP = 10


def z_image_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "x": [torch.randn(CHANNELS, 1, height, width) for _ in range(batch)],
        "t": torch.rand(batch),
        "cap_feats": [torch.randn(text + 3 * i, TEXT) for i in range(batch)],
    }


def omni_inputs(batch: int, height: int, width: int, text: int, reference: int) -> dict[str, Any]:
    # One reference and the target, and text before, between and after them.
    return {
        "x": [
            [torch.randn(CHANNELS, 1, 4, 2 * reference), torch.randn(CHANNELS, 1, height, width)] for _ in range(batch)
        ],
        "t": torch.rand(batch),
        "cap_feats": [[torch.randn(length, TEXT) for length in (2, text + i, 3)] for i in range(batch)],
        "siglip_feats": [[torch.randn(3, reference, SIGLIP), None] for _ in range(batch)],
        "image_noise_mask": [[0, 1] for _ in range(batch)],
    }


Z_IMAGE = {
    "in_channels": CHANNELS,
    "dim": 24,
    "n_layers": 2,
    "n_refiner_layers": 2,
    "n_heads": 3,
    "n_kv_heads": 3,
    "cap_feat_dim": TEXT,
    "axes_dims": [4, 2, 2],
    "axes_lens": [160, 16, 16],
}

CASES = (
    Case(
        "ZImageTransformer2DModel",
        Z_IMAGE,
        z_image_inputs,
        # Sequences are padded to multiples of 32: the third is exactly as long, the fourth takes two.
        (
            {"batch": 1, "height": 8, "width": 6, "text": 7},
            {"batch": 2, "height": 8, "width": 6, "text": 7},
            {"batch": 3, "height": 8, "width": 16, "text": 30},
            {"batch": 2, "height": 12, "width": 12, "text": 36},
        ),
    ),
    Case(
        "ZImageTransformer2DModel",
        {**Z_IMAGE, "siglip_feat_dim": SIGLIP},
        omni_inputs,
        (
            {"batch": 2, "height": 8, "width": 6, "text": 7, "reference": 2},
            {"batch": 1, "height": 8, "width": 6, "text": 7, "reference": 2},
            {"batch": 3, "height": 8, "width": 16, "text": 31, "reference": 3},
            {"batch": 2, "height": 12, "width": 12, "text": 36, "reference": 1},
        ),
        "omni",
    ),
)
