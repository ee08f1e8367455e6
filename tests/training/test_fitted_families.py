"""A fitted start is never worse than that of the projections: any operator, on models of five families.

What is compared are two students, made and judged by themselves; `surgery.training.fit` says nothing of it.
"""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.graph import ModelGraph
from surgery.operators import MLP, ConvMLP, GatedMLP, HyenaXMLP, OperatorConfig
from surgery.rewriting.commit import commit
from surgery.rewriting.planning import Plan, Recordings, prove
from surgery.rules import replace_attention, replace_mlp
from surgery.tracing import trace
from surgery.training.distil import STAGE, Pairs, sites_of
from surgery.training.fit import fit
from surgery.training.optim import frozen_behaviour
from surgery.training.wired import WiredData
from tests.nightly import nightly
from tests.operators.mixers import EVERY
from tests.pipelines import training
from tests.pipelines.test_pipelines import tiny

FAMILIES = ("DiTPipeline", "PixArtSigmaPipeline", "StableDiffusion3Pipeline", "FluxPipeline", "WanPipeline")
CHANNEL = (MLP(ratio=2), MLP(ratio=6), GatedMLP(ratio=2), ConvMLP(ratio=2), HyenaXMLP())
OPERATORS = (*EVERY, *CHANNEL)
BATCH = 4


@cache
def graph_of(name: str) -> ModelGraph:
    """The trace of a family's transformer."""
    teacher, data = family(name)
    return trace(teacher, data.example(0, "cpu"))


@cache
def family(name: str) -> tuple[nn.Module, WiredData]:
    """The transformer of a tiny pipeline, and some of its samples."""
    found = tiny(name)
    pipeline = found.build()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "SAMPLES", 60)  # of which three are held out
        return pipeline.transformer, training.wired_data(pipeline, surgery.measure(pipeline, found.call), found.call)


def held_out_losses(name: str, graph: ModelGraph, planned: tuple[Plan, Recordings]) -> dict[str, float]:
    """The loss of each site of a student before training, on samples that nothing is fitted to."""
    teacher, data = family(name)
    plan, recordings = planned
    student = commit(graph, plan.edits, 0, recordings, shared=True)
    sites = sites_of(plan.edits, teacher, student)
    fit(teacher, student, sites, data, batch_size=BATCH, seed=0)
    held_out = data.source(teacher, stage=STAGE, batch_size=BATCH, seed=0).held_out()
    with frozen_behaviour(teacher, student), torch.no_grad():
        losses = Pairs(teacher, student, sites).losses(held_out, backward=False)
    return {path: loss.item() for path, loss in losses.items()}


@nightly
@pytest.mark.parametrize("operator", OPERATORS, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_no_operator_starts_worse_than_from_projections(name: str, operator: OperatorConfig) -> None:
    graph = graph_of(name)
    rule = partial(replace_mlp if operator in CHANNEL else replace_attention, operator)
    try:
        planned = {inherit: prove(graph, [rule(inherit=inherit)]) for inherit in ("projections", "fitted")}
    except (MatchError, RewriteError) as error:
        pytest.skip(f"does not go into this model: {error}"[:200])
    losses = {inherit: held_out_losses(name, graph, each) for inherit, each in planned.items()}
    assert losses["fitted"].keys() == losses["projections"].keys()
    assert all(loss <= losses["projections"][path] for path, loss in losses["fitted"].items())
