"""Softmax attention that a forward writes out, softmax(q k^T / sqrt(K) + bias) v: found, and tried with numbers."""

from surgery.analysis.written_out.attention import PLAIN_LAYOUT, Layout, Place, WrittenOut
from surgery.analysis.written_out.find import find_written_out

__all__ = ["PLAIN_LAYOUT", "Layout", "Place", "WrittenOut", "find_written_out"]
