"""What tests of tracing and of roles draw: see `surgery.testing`."""

from surgery.testing.strategies import blocks, model_specs, sizes, with_attention
from surgery.testing.transformers import BlockSpec, ModelSpec, TinyAttention, build, inputs

__all__ = [
    "BlockSpec",
    "ModelSpec",
    "TinyAttention",
    "blocks",
    "build",
    "inputs",
    "model_specs",
    "sizes",
    "with_attention",
]
