"""Laws of rewriting: on random transformers with the rules of the library, and on models of diffusers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import FullAttention, HyenaX, SlidingWindow, SumDeltas
from surgery.rewriting import all_layers, indices
from surgery.rules import drop_blocks, duplicate_blocks, mlp_ratio, parallel_pairs, replace_attention, share_blocks
from surgery.testing import BlockSpec, Case, ModelSpec, build, cases, check_rule, inputs
from surgery.testing.check import check_case
from surgery.testing.laws import ALL, exact_rules_are_exact, identity_rules_change_nothing
from surgery.testing.strategies import blocks, model_specs, selections, sizes
from tests.analysis.test_roles import CASES
from tests.nightly import nightly
from tests.rewriting.operators import Same, Scale

specs = model_specs(blocks.map(lambda block: dataclasses.replace(block, attention="separate")), shared=False)
applied = cases().filter(lambda case: case.refusal is None)


@given(case=applied)
def test_the_rules_of_the_library_obey_all_laws(case: Case):
    check_case(case, ALL)


def on_some_layers(operator: Any) -> st.SearchStrategy[Case]:
    """Cases of attention that is replaced by `operator` in layers that all have one."""
    return cases(
        lambda n: selections(n).map(lambda layers: (replace_attention(operator, layers=layers),)), specs
    ).filter(lambda case: case.refusal is None)


@given(on_some_layers(Same()))
def test_an_identity_rule_keeps_graph_and_bits(case):
    identity_rules_change_nothing(case)


@given(on_some_layers(FullAttention()) | on_some_layers(SlidingWindow(window=12)))
def test_rules_that_are_exact(case):
    exact_rules_are_exact(case)


@nightly  # a block of docs/rules.md does the same
def test_a_wider_mlp_obeys_all_laws_and_is_exact():
    check_rule(mlp_ratio(3), exact=True)


DEPTH = [parallel_pairs(), parallel_pairs(SumDeltas()), drop_blocks(layers=indices(0)),
         duplicate_blocks(layers=indices(0)), share_blocks(average=True)]  # fmt: skip


@pytest.mark.parametrize("rule", [replace_attention(HyenaX()), mlp_ratio(2), *DEPTH], ids=lambda rule: rule.name)
def test_all_laws_hold_of_a_model_of_diffusers(rule):
    case = CASES["DiTTransformer2DModel"]
    check_rule(rule, model=case.model(), inputs=case.example())


@pytest.mark.parametrize("rule", DEPTH, ids=lambda rule: rule.name)
def test_all_laws_hold_of_blocks_with_two_streams(rule):
    case = CASES["SD3Transformer2DModel"]
    check_rule(rule, model=case.model(), inputs=case.example())


@given(model_specs(), sizes)
def test_matches_are_all_self_attentions_and_only_those(spec, size):
    graph = surgery.trace(build(spec), inputs(spec, size))
    kinds = [b.attention for b in (*spec.blocks[:-1], spec.blocks[0 if spec.shared else -1])]
    seen = dict.fromkeys(range(len(kinds) - (spec.shared and len(kinds) > 1)))
    expected = [n for n in seen if kinds[n] in ("separate", "fused")]
    assert sorted({o.layer for o in graph.operators("self_attention")}) == expected


@given(specs, sizes)
def test_the_same_module_claimed_twice_is_a_conflict(spec, size):
    model, example = build(spec), inputs(spec, size)
    rules = [replace_attention(Scale(), layers=indices(0)), replace_attention(HyenaX())]
    planned = surgery.plan(model, rules, example)
    assert [c.paths[0] for c in planned.conflicts] == ["blocks.0.attn"]
    with pytest.raises(RewriteError, match=r"both edit blocks\.0\.attn; narrow the layers"):
        surgery.rewrite(model, rules, example)


def test_zero_matches_is_an_error_that_says_what_there_is():
    spec = ModelSpec(1, 2, True, (BlockSpec("cross", "module", "layer", False, False),), False, 1)
    with pytest.raises(
        MatchError, match=r"no self-attention or joint-attention to replace in .*; it has 1 cross-attention"
    ):
        surgery.rewrite(build(spec), [replace_attention(Scale())], inputs(spec, (1, 2, 3)))


def test_two_rules_that_duplicate_the_same_block_conflict():
    spec = ModelSpec(1, 2, True, (BlockSpec("separate", "module", "layer", False, False),) * 2, False, 1)
    rules = [duplicate_blocks(layers=indices(0)), duplicate_blocks(layers=indices(0, 1))]
    assert [c.paths for c in Case(rules, build(spec), inputs(spec, (1, 2, 3))).plan.conflicts] == [
        ("blocks.0", "blocks.0")
    ]


def test_a_shared_block_that_is_dropped_and_changed_is_a_conflict():
    block = BlockSpec("none", "inline", "none", False, True)
    spec = ModelSpec(1, 3, True, (block, block), True, 11)
    rules = [mlp_ratio(1), drop_blocks(layers=all_layers())]
    assert "overlap" in Case(rules, build(spec), inputs(spec, (1, 6, 4))).refusal


@pytest.mark.parametrize("step", [1, -1])
def test_two_rules_that_copy_the_same_block_conflict_in_either_order(step):
    spec = ModelSpec(1, 2, True, (BlockSpec("separate", "module", "layer", False, False),) * 2, False, 1)
    rules = [duplicate_blocks(layers=indices(1)), share_blocks(2)][::step]
    with pytest.raises(RewriteError, match="so their order matters"):
        surgery.rewrite(build(spec), rules, inputs(spec, (1, 2, 3)))
    rules = [duplicate_blocks(layers=indices(0)), share_blocks(2)][::step]  # this one keeps its weights
    assert not surgery.plan(build(spec), rules, inputs(spec, (1, 2, 3))).conflicts
    rules = [duplicate_blocks(layers=indices(0)), share_blocks(2, average=True)][::step]
    assert len(surgery.plan(build(spec), rules, inputs(spec, (1, 2, 3))).conflicts) == 1


def test_a_block_stays_if_others_use_a_part_of_it():
    case = CASES["DiTTransformer2DModel"]
    student = surgery.rewrite(case.model(), [drop_blocks(layers=indices(0))], case.example())
    kept = dict(student.transformer_blocks[0].named_parameters())
    assert "norm1.emb.timestep_embedder.linear_1.weight" in kept  # of which DiT's last layer makes its modulation
    assert student(**case.example()).sample.isfinite().all()
