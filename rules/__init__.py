"""The rule library, one family per file."""

from surgery.rules.attention import ReplaceAttention, replace_attention

__all__ = ["ReplaceAttention", "replace_attention"]
