"""Students of several families, edited in several ways, learn on two processes what they learn on one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.operators import GatedMLP, HyenaX, SlidingWindow
from surgery.parallel.whole import is_divided
from surgery.rewriting import indices
from surgery.rewriting.commit import commit
from surgery.rewriting.planning import prove
from surgery.rewriting.rule import Rule
from surgery.rules import drop_blocks, parallel_pairs, replace_attention, replace_mlp, share_blocks
from surgery.testing import profiles
from surgery.tracing import trace
from surgery.training.distil import Distil, distil, sites_of
from surgery.training.finetune import Finetune, finetune
from surgery.training.sharding import divide, units_of
from surgery.training.source import predict
from tests.parallel.world import in_processes
from tests.training.test_options import new_of
from tests.training.test_wired import wired

GATED = replace_mlp(GatedMLP(ratio=2), layers=indices(0), inherit="random")
CORE = replace_attention(SlidingWindow(window=2), layers=indices(0))
CASES: dict[str, tuple[str, Sequence[Rule]]] = {
    "swapped": ("DiTPipeline", [replace_attention(HyenaX(kernel=4), layers=indices(1))]),
    "core": ("PixArtSigmaPipeline", [CORE]),
    "pairs": ("PixArtSigmaPipeline", [parallel_pairs()]),
    "core of two streams": ("FluxPipeline", [CORE]),
    "shared": ("DiTPipeline", [share_blocks(layers=indices(0, 1)), GATED]),
    "dropped": ("WanPipeline", [drop_blocks(layers=indices(1)), GATED]),
}

LONG = ("swapped", "core", "core of two streams", "shared")


def learnt(name: str, rules: Sequence[Rule], divided: bool = False) -> tuple[list[float], Tensor]:
    """The losses of both stages, and what the student predicts at last."""
    model, data = wired(name)
    teacher, inputs = copy.deepcopy(model), data.example(0, "cpu")
    graph = trace(teacher, inputs)
    planned, recordings = prove(graph, rules)
    student = commit(graph, planned.edits, 0, recordings, shared=True)
    if divided:
        divide(graph, planned.edits, student, inputs)
        assert all(map(is_divided, student.parameters()))
    common: dict[str, Any] = {"steps": 2, "batch_size": 3, "warmup": 0, "checkpoint_every": 2}
    sites = sites_of(planned.edits, teacher, student)
    one = distil(teacher, student, sites, data, Distil(**common), seed=1)
    two = finetune(teacher, student, new_of(student), data, Finetune(**common, target="teacher"), seed=1)
    with torch.no_grad():
        given = predict(student, inputs)
    return [figure for r in (*one, *two) for figure in (r.loss, r.validation or 0.0)], given


@pytest.mark.parametrize("case", CASES)
def test_losses_and_predictions_are_those_of_one_process(case: str) -> None:
    if case in LONG and profiles.chosen() != "nightly":
        pytest.skip("takes long: make nightly")
    losses, given = learnt(*CASES[case])
    both = in_processes(2, lambda: [learnt(*CASES[case]), learnt(*CASES[case], divided=True)])
    for found, predicted in both[0]:
        assert found == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(predicted, given, atol=1e-4, rtol=1e-4)


def test_what_is_used_outside_of_its_block_is_gathered_by_itself() -> None:
    model, data = wired("DiTPipeline")
    graph = trace(model, data.example(0, "cpu"))
    first = "transformer_blocks.0"
    assert units_of(graph.scopes, graph.layers) == {*graph.layers, f"{first}.norm1.emb"}  # which the root calls as well
    assert units_of(graph.scopes, {first}) == {first, f"{first}.norm1.emb"}
