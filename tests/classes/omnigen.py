"""OmniGen: tokens, images among them, a time and the image to make as one causal sequence."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

CHANNELS = 4
VOCABULARY = 40
HEAD = 8


def omnigen_inputs(batch: int, height: int, width: int, text: int, reference: int) -> dict[str, Any]:
    valid = prefix_mask(batch, text).flip(1)
    image = height * width // 4
    length = text + 1 + image
    mask = torch.tril(torch.ones(length, length)).repeat(batch, 1, 1)
    mask[:, text + 1 :] = 1
    mask[:, :, :text] *= valid[:, None, :]
    # Rows of padding attend to everything, so that none is empty.
    mask[:, :text][~valid] = 1
    # The first sample ends with an image of 2 x (2 * reference) latents.
    start = text - reference
    mask[0, start:text, start:text] = 1
    padding = (~valid).sum(1)[:, None]
    return {
        "hidden_states": torch.randn(batch, CHANNELS, height, width),
        "timestep": torch.rand(batch),
        "input_ids": torch.randint(VOCABULARY - 1, (batch, text)),
        "input_img_latents": [torch.randn(1, CHANNELS, 2, 2 * reference)],
        "input_image_sizes": {0: [[start, text]]},
        "attention_mask": mask,
        "position_ids": (torch.arange(length) - padding).clamp(min=0),
    }


CASES = (
    Case(
        "OmniGenTransformer2DModel",
        {
            "in_channels": CHANNELS,
            "hidden_size": 4 * HEAD,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 40,
            "num_layers": 2,
            "pad_token_id": VOCABULARY - 1,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 128,
            # The third and fourth sizes are longer, and take the other factors.
            "original_max_position_embeddings": 24,
            "rope_scaling": {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]},
            "pos_embed_max_size": 8,
            "time_step_dim": 18,
        },
        omnigen_inputs,
        (
            {"batch": 1, "height": 8, "width": 6, "text": 9, "reference": 2},
            {"batch": 2, "height": 8, "width": 6, "text": 9, "reference": 2},
            {"batch": 3, "height": 8, "width": 12, "text": 8, "reference": 3},
            {"batch": 2, "height": 8, "width": 8, "text": 16, "reference": 4},
            {"batch": 4, "height": 4, "width": 8, "text": 8, "reference": 1},
        ),
    ),
)
