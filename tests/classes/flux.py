"""Flux and the classes that follow it: packed latents, position ids, double and single stream blocks."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import grid_ids, prefix_mask

CHANNELS = 12
TEXT = 20
POOLED = 14

# The fourth has as many text tokens as image tokens.
SIZES = (
    {"batch": 1, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "height": 4, "width": 6, "text": 7},
    {"batch": 1, "height": 5, "width": 3, "text": 9},
    {"batch": 3, "height": 3, "width": 4, "text": 12},
    {"batch": 2, "height": 2, "width": 2, "text": 1},
)


def stream_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, height * width, CHANNELS),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "timestep": torch.rand(batch),
        "img_ids": grid_ids(height, width),
        "txt_ids": torch.zeros(text, 3),
    }


def flux_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **stream_inputs(batch, height, width, text),
        "pooled_projections": torch.randn(batch, POOLED),
        "joint_attention_kwargs": {},
    }


def controlled_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    residual = (batch, height * width, 32)
    return {
        **flux_inputs(batch, height, width, text),
        "guidance": torch.full((batch,), 3.5),
        "controlnet_block_samples": [torch.randn(residual) for _ in range(2)],
        "controlnet_single_block_samples": [torch.randn(residual)],
    }


def chroma_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    # The pipeline hands over a float mask over text and image, of which padding is 0.
    mask = torch.cat([prefix_mask(batch, text).float(), torch.ones(batch, height * width)], dim=1)
    return {**stream_inputs(batch, height, width, text), "attention_mask": mask}


def longcat_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    positions = torch.arange(text)[:, None].expand(text, 2)
    return {
        **stream_inputs(batch, height, width, text),
        "img_ids": grid_ids(height, width, first=1),
        "txt_ids": torch.cat([torch.zeros(text, 1), positions], dim=1),
    }


def flux2_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    text_ids = torch.cartesian_prod(torch.arange(1), torch.arange(1), torch.arange(1), torch.arange(text))
    return {
        **stream_inputs(batch, height, width, text),
        "img_ids": grid_ids(height, width, axes=4).long().repeat(batch, 1, 1),
        "txt_ids": text_ids.repeat(batch, 1, 1),
        "guidance": torch.full((batch,), 4.0),
    }


def flux3_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **stream_inputs(batch, height, width, text),
        "img_ids": grid_ids(height, width, axes=4),
        "txt_ids": torch.cat([torch.zeros(text, 3), torch.arange(text)[:, None]], dim=1),
    }


def flux3_edit_inputs(batch: int, height: int, width: int, text: int, reference: int) -> dict[str, Any]:
    ids = grid_ids(2, reference, axes=4)
    ids[:, 3] = -1
    return {
        **flux3_inputs(batch, height, width, text),
        "image_cond_hidden_states": torch.randn(batch, 2 * reference, 10),
        "image_cond_ids": ids,
        "target_timestep": torch.rand(batch),
    }


FLUX = {
    "in_channels": CHANNELS,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": (4, 4, 8),
}

CASES = (
    Case("FluxTransformer2DModel", {**FLUX, "pooled_projection_dim": POOLED}, flux_inputs, SIZES),
    Case(
        "FluxTransformer2DModel",
        {**FLUX, "pooled_projection_dim": POOLED, "guidance_embeds": True, "out_channels": 10},
        controlled_inputs,
        SIZES,
        "controlled",
    ),
    Case(
        "ChromaTransformer2DModel",
        {
            **FLUX,
            "attention_head_dim": 12,
            "num_attention_heads": 3,
            "axes_dims_rope": (4, 4, 4),
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 2,
        },
        chroma_inputs,
        SIZES,
    ),
    Case("LongCatImageTransformer2DModel", {**FLUX, "pooled_projection_dim": POOLED}, longcat_inputs, SIZES),
    Case("OvisImageTransformer2DModel", {**FLUX, "out_channels": CHANNELS}, stream_inputs, SIZES),
    Case(
        "Flux2Transformer2DModel",
        {
            **FLUX,
            "attention_head_dim": 10,
            "num_attention_heads": 4,
            "axes_dims_rope": (2, 2, 4, 2),
            "timestep_guidance_channels": 24,
        },
        flux2_inputs,
        SIZES,
    ),
    Case(
        "Flux3Transformer2DModel",
        {**FLUX, "cond_in_channels": 10, "axes_dims_rope": (2, 4, 4, 6), "timestep_channels": 24},
        flux3_inputs,
        SIZES,
    ),
    Case(
        "Flux3Transformer2DModel",
        {**FLUX, "cond_in_channels": 10, "axes_dims_rope": (2, 4, 4, 6), "timestep_channels": 24, "flow_map": True},
        flux3_edit_inputs,
        (
            {"batch": 2, "height": 4, "width": 6, "text": 7, "reference": 5},
            {"batch": 1, "height": 4, "width": 6, "text": 7, "reference": 5},
            {"batch": 3, "height": 5, "width": 3, "text": 9, "reference": 1},
            {"batch": 2, "height": 3, "width": 4, "text": 12, "reference": 6},
        ),
        "edit",
    ),
)
