"""AnyFlow-FAR: makes a video chunk by chunk, over a cache of the chunks before; the oldest are in larger patches."""

from __future__ import annotations

from typing import Any

import torch

from tests.classes.anyflow import ANYFLOW, anyflow_inputs
from tests.classes.case import Case

LAYERS = 2
HEADS = 2
HEAD = 14
# So many chunks, the one at work among them, are in small patches.
FULL = 2


def chunk_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    # The third chunk is at work. Chunks but the first have the same number of frames.
    partition = [1, frames, frames]
    full = FULL * frames * height * width // 4
    compressed = (len(partition) - FULL + 1) * frames * height * width // 16
    return {
        **anyflow_inputs(batch, frames, height, width, text),
        "chunk_partition": partition,
        "kv_cache": {
            layer: {
                "full_cache": torch.randn(2, batch, HEADS, full, HEAD),
                "compressed_cache": torch.randn(2, batch, HEADS, compressed, HEAD),
            }
            for layer in range(LAYERS)
        },
        "kv_cache_flag": {"num_cached_chunks": 2, "is_cache_step": False},
    }


def rollout_inputs(batch: int, frames: int, height: int, width: int, text: int) -> dict[str, Any]:
    return {
        **anyflow_inputs(batch, 1 + 2 * frames, height, width, text),
        "chunk_partition": [1, frames, frames],
    }


FAR = {**ANYFLOW, "attention_head_dim": HEAD, "num_attention_heads": HEADS, "num_layers": LAYERS}

# The fourth has as many text tokens as the chunk has tokens.
SIZES = (
    {"batch": 1, "frames": 2, "height": 4, "width": 8, "text": 7},
    {"batch": 2, "frames": 2, "height": 4, "width": 8, "text": 7},
    {"batch": 3, "frames": 3, "height": 8, "width": 4, "text": 5},
    {"batch": 2, "frames": 1, "height": 8, "width": 8, "text": 16},
)

CASES = (
    Case("AnyFlowFARTransformer3DModel", {**FAR, "full_chunk_limit": FULL}, chunk_inputs, SIZES),
    Case("AnyFlowFARTransformer3DModel", {**FAR, "full_chunk_limit": FULL}, rollout_inputs, SIZES, "rollout"),
)
