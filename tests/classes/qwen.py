"""Qwen-Image, Qwen-Image 2.1 and Nucleus-Image; the sizes of the images come as tuples of numbers."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 10
TEXT = 20

# The fourth has as many text tokens as image tokens.
SIZES = (
    {"batch": 1, "height": 4, "width": 6, "text": 7},
    {"batch": 2, "height": 4, "width": 6, "text": 7},
    {"batch": 3, "height": 5, "width": 3, "text": 9},
    {"batch": 2, "height": 3, "width": 4, "text": 12},
)

EDIT_SIZES = (
    {"batch": 2, "height": 4, "width": 6, "text": 7, "reference": 2},
    {"batch": 1, "height": 4, "width": 6, "text": 7, "reference": 2},
    {"batch": 3, "height": 6, "width": 2, "text": 9, "reference": 4},
    {"batch": 2, "height": 2, "width": 6, "text": 12, "reference": 6},
)


def qwen_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, height * width, CHANNELS),
        "encoder_hidden_states": torch.randn(batch, text, TEXT),
        "encoder_hidden_states_mask": prefix_mask(batch, text).long(),
        "timestep": torch.rand(batch),
        "img_shapes": [[(1, height, width)]] * batch,
    }


def edit_inputs(batch: int, height: int, width: int, text: int, reference: int) -> dict[str, Any]:
    return {
        **qwen_inputs(batch, height, width, text),
        "hidden_states": torch.randn(batch, height * width + 4 * reference, CHANNELS),
        "img_shapes": [[(1, height, width), (1, 4, reference)]] * batch,
    }


def layered_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    # Two layers, the image they make up, and the image they are to be taken from.
    layers = 4
    return {
        **qwen_inputs(batch, height, width, text),
        "hidden_states": torch.randn(batch, layers * height * width, CHANNELS),
        "img_shapes": [[(1, height, width)] * layers] * batch,
        "additional_t_cond": torch.zeros(batch, dtype=torch.long),
    }


def nucleus_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **qwen_inputs(batch, height, width, text),
        "encoder_hidden_states_mask": prefix_mask(batch, text),
        "img_shapes": [(1, height, width)] * batch,
    }


def qwen21_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    # One slot of the mask stands for 2 x 2 latents.
    slots = torch.arange(text + height * width // 4) >= text
    return {
        **qwen_inputs(batch, height, width, text),
        "encoder_hidden_states_mask": prefix_mask(batch, text),
        "img_mask": slots.repeat(batch, 1),
    }


def qwen21_edit_inputs(batch: int, height: int, width: int, text: int, reference: int) -> dict[str, Any]:
    # The reference, 2 x (2 * reference) latents, takes slots two tokens into the prompt.
    slots = torch.arange(text + height * width // 4)
    return {
        **qwen21_inputs(batch, height, width, text),
        "hidden_states": torch.randn(batch, height * width + 4 * reference, CHANNELS),
        "img_shapes": [[(1, 2, 2 * reference), (1, height, width)]] * batch,
        "img_mask": ((slots >= text) | ((slots >= 2) & (slots < 2 + reference))).repeat(batch, 1),
    }


QWEN = {
    "in_channels": CHANNELS,
    "out_channels": 3,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": (4, 2, 2),
}

QWEN21 = {
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "context_in_dim": TEXT,
    "axes_dims_rope": (4, 2, 2),
}

CASES = (
    Case("QwenImageTransformer2DModel", QWEN, qwen_inputs, SIZES),
    Case("QwenImageTransformer2DModel", {**QWEN, "zero_cond_t": True}, edit_inputs, EDIT_SIZES, "edit"),
    Case(
        "QwenImageTransformer2DModel",
        {**QWEN, "use_layer3d_rope": True, "use_additional_t_cond": True},
        layered_inputs,
        (SIZES[1], SIZES[0], *SIZES[2:]),
        "layered",
    ),
    Case(
        "QwenImage21Transformer2DModel",
        QWEN21,
        qwen21_inputs,
        (
            {"batch": 1, "height": 4, "width": 6, "text": 7},
            {"batch": 2, "height": 4, "width": 6, "text": 7},
            {"batch": 3, "height": 6, "width": 2, "text": 9},
            {"batch": 2, "height": 2, "width": 6, "text": 12},
        ),
    ),
    Case("QwenImage21Transformer2DModel", QWEN21, qwen21_edit_inputs, EDIT_SIZES, "edit"),
    Case(
        "NucleusMoEImageTransformer2DModel",
        {
            **QWEN,
            "num_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            # The width of dense layers is rounded down to a multiple of 128.
            "mlp_ratio": 6.0,
            "dense_moe_strategy": "leave_first_three_blocks_dense",
            "num_experts": 3,
            "moe_intermediate_dim": 10,
            "capacity_factors": 2.0,
        },
        nucleus_inputs,
        SIZES,
    ),
)
