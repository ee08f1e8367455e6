"""Operators that stand where an attention or an MLP stood, or join two blocks: plain PyTorch, described by plain data."""

from surgery.operators.base import CountedByConfig, OperatorConfig
from surgery.operators.blend import Blend, BlendCore, BlendMixer
from surgery.operators.conv_mlp import ConvMLP, ConvMLPMixer
from surgery.operators.core_mixer import CoreMixer
from surgery.operators.delta import GatedDelta, GatedDeltaCore, GatedDeltaMixer
from surgery.operators.dims import Dims, MixerDims, Policy
from surgery.operators.full import FullAttention, FullAttentionCore, FullAttentionMixer
from surgery.operators.fused import FusedLinear, FusedLinearMap, LinearDims, LinearPart, Pieces
from surgery.operators.gated_mlp import GatedMLP, GatedMLPMixer
from surgery.operators.grouped import GroupedQueryAttention, GroupedQueryCore, GroupedQueryMixer
from surgery.operators.hidden import HiddenDims, HiddenLinearMap, HiddenNeurons, LinearSizes
from surgery.operators.hyena import HyenaCore, HyenaMixer, HyenaSE, HyenaX, HyenaY
from surgery.operators.hyena_mlp import HyenaXMLP, HyenaXMLPMixer
from surgery.operators.joiner import ConcatProject, Joiner, JoinerConfig, JoinerDims, SumDeltas, WeightedSum, ZeroJoin
from surgery.operators.kinds import AnyDims, AnyOperator, operator_from_data
from surgery.operators.linear import LinearAttention, LinearAttentionCore, LinearAttentionMixer
from surgery.operators.mamba import Mamba2, Mamba2Mixer
from surgery.operators.mixer import MixerConfig, MixerCore, SequenceMixer
from surgery.operators.mlp import MLP, Activation, ChannelConfig, ChannelMixer, MLPDims, MLPMixer, linears_of
from surgery.operators.neighbourhood import NeighbourhoodAttention, NeighbourhoodCore, NeighbourhoodMixer
from surgery.operators.projections import Projections, dims_of, extra_features, projections_of
from surgery.operators.sparse_linear import SparseLinear, SparseLinearCore, SparseLinearMixer
from surgery.operators.ttt import TTT, TTTCore, TTTMixer
from surgery.operators.window import SlidingWindow, SlidingWindowCore, SlidingWindowMixer

__all__ = [
    "MLP",
    "TTT",
    "Activation",
    "AnyDims",
    "AnyOperator",
    "Blend",
    "BlendCore",
    "BlendMixer",
    "ChannelConfig",
    "ChannelMixer",
    "ConcatProject",
    "ConvMLP",
    "ConvMLPMixer",
    "CoreMixer",
    "CountedByConfig",
    "Dims",
    "FullAttention",
    "FullAttentionCore",
    "FullAttentionMixer",
    "FusedLinear",
    "FusedLinearMap",
    "GatedDelta",
    "GatedDeltaCore",
    "GatedDeltaMixer",
    "GatedMLP",
    "GatedMLPMixer",
    "GroupedQueryAttention",
    "GroupedQueryCore",
    "GroupedQueryMixer",
    "HiddenDims",
    "HiddenLinearMap",
    "HiddenNeurons",
    "HyenaCore",
    "HyenaMixer",
    "HyenaSE",
    "HyenaX",
    "HyenaXMLP",
    "HyenaXMLPMixer",
    "HyenaY",
    "Joiner",
    "JoinerConfig",
    "JoinerDims",
    "LinearAttention",
    "LinearAttentionCore",
    "LinearAttentionMixer",
    "LinearDims",
    "LinearPart",
    "LinearSizes",
    "MLPDims",
    "MLPMixer",
    "Mamba2",
    "Mamba2Mixer",
    "MixerConfig",
    "MixerCore",
    "MixerDims",
    "NeighbourhoodAttention",
    "NeighbourhoodCore",
    "NeighbourhoodMixer",
    "OperatorConfig",
    "Pieces",
    "Policy",
    "Projections",
    "SequenceMixer",
    "SlidingWindow",
    "SlidingWindowCore",
    "SlidingWindowMixer",
    "SparseLinear",
    "SparseLinearCore",
    "SparseLinearMixer",
    "SumDeltas",
    "TTTCore",
    "TTTMixer",
    "WeightedSum",
    "ZeroJoin",
    "dims_of",
    "extra_features",
    "linears_of",
    "operator_from_data",
    "projections_of",
]
