"""The rule library, one family per file."""

from surgery.rules.attention import ReplaceAttention, replace_attention
from surgery.rules.mlp import ReplaceMLP, mlp_ratio, replace_mlp

__all__ = ["ReplaceAttention", "ReplaceMLP", "mlp_ratio", "replace_attention", "replace_mlp"]
