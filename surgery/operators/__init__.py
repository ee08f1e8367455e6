"""Operators that stand where an attention or an MLP stood, or join two blocks: plain PyTorch, described by plain data."""

from surgery.operators.base import MixerConfig, MixerDims, OperatorConfig, Policy, SequenceMixer
from surgery.operators.full import FullAttention, FullAttentionMixer
from surgery.operators.hyena import HyenaMixer, HyenaSE, HyenaX, HyenaY
from surgery.operators.joiner import ConcatProject, Joiner, JoinerConfig, JoinerDims, SumDeltas, WeightedSum, ZeroJoin
from surgery.operators.mamba import Mamba2, Mamba2Mixer
from surgery.operators.mlp import MLP, Activation, MLPDims, MLPMixer, linears_of
from surgery.operators.projections import Projections, dims_of, extra_features, projections_of
from surgery.operators.registry import AnyOperator, Operator, operator_from_data
from surgery.operators.window import SlidingWindow, SlidingWindowMixer

__all__ = [
    "MLP",
    "Activation",
    "AnyOperator",
    "ConcatProject",
    "FullAttention",
    "FullAttentionMixer",
    "HyenaMixer",
    "HyenaSE",
    "HyenaX",
    "HyenaY",
    "Joiner",
    "JoinerConfig",
    "JoinerDims",
    "MLPDims",
    "MLPMixer",
    "Mamba2",
    "Mamba2Mixer",
    "MixerConfig",
    "MixerDims",
    "Operator",
    "OperatorConfig",
    "Policy",
    "Projections",
    "SequenceMixer",
    "SlidingWindow",
    "SlidingWindowMixer",
    "SumDeltas",
    "WeightedSum",
    "ZeroJoin",
    "dims_of",
    "extra_features",
    "linears_of",
    "operator_from_data",
    "projections_of",
]
