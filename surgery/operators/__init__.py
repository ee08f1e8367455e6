"""Operators that can stand where an attention stood: plain PyTorch, described by plain data."""

from surgery.operators.base import MixerConfig, MixerDims, Policy, SequenceMixer
from surgery.operators.full import FullAttention, FullAttentionMixer
from surgery.operators.hyena import HyenaX, HyenaXMixer
from surgery.operators.projections import Projections, dims_of, extra_features, projections_of
from surgery.operators.registry import AnyOperator, Operator, operator_from_data
from surgery.operators.window import SlidingWindow, SlidingWindowMixer

__all__ = [
    "AnyOperator",
    "FullAttention",
    "FullAttentionMixer",
    "HyenaX",
    "HyenaXMixer",
    "MixerConfig",
    "MixerDims",
    "Operator",
    "Policy",
    "Projections",
    "SequenceMixer",
    "SlidingWindow",
    "SlidingWindowMixer",
    "dims_of",
    "extra_features",
    "operator_from_data",
    "projections_of",
]
