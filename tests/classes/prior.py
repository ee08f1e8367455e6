"""PriorTransformer as unCLIP and as Shap-E use it; how long its text is its configuration says."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.case import Case
from tests.classes.parts import prefix_mask

EMBEDDING = 20
TEXT = 7
LATENTS = 6

BATCHES = ({"batch": 1}, {"batch": 2}, {"batch": 3}, {"batch": 7})


def unclip_inputs(batch: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, EMBEDDING),
        "timestep": torch.randint(1000, ()),
        "proj_embedding": torch.randn(batch, EMBEDDING),
        "encoder_hidden_states": torch.randn(batch, TEXT, EMBEDDING),
        "attention_mask": prefix_mask(batch, TEXT),
    }


def shap_e_inputs(batch: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, LATENTS, EMBEDDING),
        "timestep": torch.randint(1000, ()),
        "proj_embedding": torch.randn(batch, 14),
    }


PRIOR = {"num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": EMBEDDING}

CASES = (
    Case("PriorTransformer", {**PRIOR, "num_embeddings": TEXT, "additional_embeddings": 4}, unclip_inputs, BATCHES),
    Case(
        "PriorTransformer",
        {
            **PRIOR,
            "num_embeddings": LATENTS,
            "additional_embeddings": 0,
            "time_embed_act_fn": "gelu",
            "norm_in_type": "layer",
            "embedding_proj_norm_type": "layer",
            "encoder_hid_proj_type": None,
            "added_emb_type": None,
            "embedding_proj_dim": 14,
            "clip_embed_dim": 10,
        },
        shap_e_inputs,
        BATCHES,
        "shap-e",
    ),
)
