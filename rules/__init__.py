"""The rule library, one family per file."""

from surgery.rules.attention import ReplaceAttention, replace_attention
from surgery.rules.depth import (
    DropBlocks,
    DuplicateBlocks,
    ParallelPairs,
    ShareBlocks,
    drop_blocks,
    duplicate_blocks,
    parallel_pairs,
    share_blocks,
)
from surgery.rules.mlp import ReplaceMLP, mlp_ratio, replace_mlp

__all__ = [
    "DropBlocks",
    "DuplicateBlocks",
    "ParallelPairs",
    "ReplaceAttention",
    "ReplaceMLP",
    "ShareBlocks",
    "drop_blocks",
    "duplicate_blocks",
    "mlp_ratio",
    "parallel_pairs",
    "replace_attention",
    "replace_mlp",
    "share_blocks",
]
