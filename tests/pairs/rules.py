"""The rules and the models, which are four layers deep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

import surgery
from surgery.errors import MatchError
from surgery.graph import ModelGraph
from surgery.operators import HyenaX, LinearAttention, SlidingWindow
from surgery.rewriting import Rule, Selection, indices
from surgery.rules import drop_blocks, duplicate_blocks, mlp_ratio, parallel_pairs, replace_attention, share_blocks
from tests.compat.models import FAMILIES, Inputs

RULES: dict[str, Callable[[Selection], Rule]] = {
    "hyena": lambda layers: replace_attention(HyenaX(kernel=3), layers=layers),
    "window": lambda layers: replace_attention(SlidingWindow(window=2), layers=layers),
    "linear": lambda layers: replace_attention(LinearAttention(), layers=layers),
    "linear cross": lambda layers: replace_attention(LinearAttention(), role="cross_attention", layers=layers),
    "mlp 6": lambda layers: mlp_ratio(6, layers=layers),
    "mlp 3": lambda layers: mlp_ratio(3, layers=layers),
    "parallel": lambda layers: parallel_pairs(layers=layers),
    "drop": lambda layers: drop_blocks(layers=layers),
    "duplicate": lambda layers: duplicate_blocks(layers=layers),
    "share": lambda layers: share_blocks(layers=layers),
}
DEEPER: dict[str, dict[str, Any]] = {
    "dit": {"num_layers": 4},
    "pixart": {"num_layers": 4},
    # Blocks that differ can neither share weights nor stand in parallel: the first two are alike here.
    "sd3": {"num_layers": 4, "dual_attention_layers": (2,)},
    "flux": {"num_layers": 4, "num_single_layers": 4},
    "wan": {"num_layers": 4},
}


@dataclass(frozen=True)
class Model:
    """A traced model.

    Attributes:
        fitting: for each rule that fits anywhere, the layers where it does.
    """

    module: nn.Module
    graph: ModelGraph
    inputs: Inputs
    fitting: dict[str, tuple[int, ...]]


@cache
def model(name: str) -> Model:
    """One of the five models, in eval mode."""
    torch.manual_seed(0)
    shallow = FAMILIES[name].build()
    module = type(shallow)(**{**shallow.config, **DEEPER[name]}).eval()
    # A mask that is added to scores is nothing that linear attention can obey.
    inputs = {key: value for key, value in FAMILIES[name].inputs().items() if not key.endswith("attention_mask")}
    graph = surgery.trace(module, inputs)
    layers = range(sum(count for key, count in DEEPER[name].items() if key.startswith("num_")))
    fitting = {rule: tuple(layer for layer in layers if _fits(graph, rule, layer)) for rule in RULES}
    return Model(module, graph, inputs, {rule: found for rule, found in fitting.items() if found})


def _fits(graph: ModelGraph, rule: str, layer: int) -> bool:
    try:
        surgery.plan(graph, [RULES[rule](indices(layer))])
    except MatchError:
        return False
    return True
