"""Operators that can stand where an attention or an MLP stood: plain PyTorch, described by plain data."""

from surgery.operators.base import MixerConfig, MixerDims, OperatorConfig, Policy, SequenceMixer
from surgery.operators.full import FullAttention, FullAttentionMixer
from surgery.operators.hyena import HyenaMixer, HyenaSE, HyenaX, HyenaY
from surgery.operators.mlp import MLP, Activation, MLPDims, MLPMixer, linears_of
from surgery.operators.projections import Projections, dims_of, extra_features, projections_of
from surgery.operators.registry import AnyDims, AnyOperator, Operator, operator_from_data
from surgery.operators.window import SlidingWindow, SlidingWindowMixer

__all__ = [
    "MLP",
    "Activation",
    "AnyDims",
    "AnyOperator",
    "FullAttention",
    "FullAttentionMixer",
    "HyenaMixer",
    "HyenaSE",
    "HyenaX",
    "HyenaY",
    "MLPDims",
    "MLPMixer",
    "MixerConfig",
    "MixerDims",
    "Operator",
    "OperatorConfig",
    "Policy",
    "Projections",
    "SequenceMixer",
    "SlidingWindow",
    "SlidingWindowMixer",
    "dims_of",
    "extra_features",
    "linears_of",
    "operator_from_data",
    "projections_of",
]
