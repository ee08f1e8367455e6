"""The rule library, one family per file."""

from surgery.rules.attention import ReplaceAttention, alternate, replace_attention
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
from surgery.rules.mlp import MLPRatio, ReplaceMLP, mlp_ratio, replace_mlp
from surgery.rules.projections import FuseProjections, SplitProjections, fuse_projections, split_projections

__all__ = [
    "DropBlocks",
    "DuplicateBlocks",
    "FuseProjections",
    "MLPRatio",
    "ParallelPairs",
    "ReplaceAttention",
    "ReplaceMLP",
    "ShareBlocks",
    "SplitProjections",
    "alternate",
    "drop_blocks",
    "duplicate_blocks",
    "fuse_projections",
    "mlp_ratio",
    "parallel_pairs",
    "replace_attention",
    "replace_mlp",
    "share_blocks",
    "split_projections",
]
