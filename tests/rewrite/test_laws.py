"""Laws of rewriting, on random transformers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import HyenaX
from surgery.rewrite import commit as commits
from surgery.rewrite import indices
from surgery.rules import replace_attention
from tests.rewrite.operators import Same, Scale
from tests.strategies import ModelSpec, build, inputs, model_specs, sizes, with_attention
from tests.trace.test_exact import assert_same

specs = model_specs(with_attention, shared=False)


def snapshot(model: torch.nn.Module) -> dict[str, Any]:
    return {
        "weights": copy.deepcopy(dict(model.state_dict())),
        "modules": {n: id(m) for n, m in model.named_modules()},
    }


def assert_untouched(model: torch.nn.Module, before: dict[str, Any]) -> None:
    assert_same(before, snapshot(model))


def layers_of(spec: ModelSpec, data: st.DataObject) -> list[int]:
    return data.draw(st.lists(st.integers(0, len(spec.blocks) - 1), min_size=1, unique=True))


@settings(max_examples=25, deadline=None)
@given(specs, sizes, sizes, st.data())
def test_an_identity_rule_keeps_graph_and_bits(spec, example, other, data):
    model = build(spec)
    student = surgery.rewrite(model, [replace_attention(Same(), layers=indices(*layers_of(spec, data)))],
                              inputs(spec, example))  # fmt: skip
    call = inputs(spec, other, seed=3)
    assert_same(model(**call), student(**call))
    assert_same(dict(model.state_dict()), dict(student.state_dict()))
    before, after = (surgery.trace(m, inputs(spec, example)) for m in (model, student))
    assert {p: s.recordings[0].code for p, s in before.scopes.items()} == {
        p: s.recordings[0].code for p, s in after.scopes.items()
    }


@settings(max_examples=25, deadline=None)
@given(specs, sizes, st.data())
def test_undo_restores_the_original_bit_for_bit(spec, size, data):
    model = build(spec)
    student = surgery.rewrite(model, [replace_attention(HyenaX(), layers=indices(*layers_of(spec, data)))],
                              inputs(spec, size))  # fmt: skip
    restored = surgery.undo(student)
    assert_same(dict(model.state_dict()), dict(restored.state_dict()))
    assert [type(m) for m in restored.modules()] == [type(m) for m in model.modules()]
    call = inputs(spec, size, seed=3)
    assert_same(model(**call), restored(**call))


@settings(max_examples=25, deadline=None)
@given(specs, sizes, st.data())
def test_disjoint_rewrites_commute(spec, size, data):
    assume(len(spec.blocks) > 1)
    first = layers_of(spec, data)
    second = [n for n in range(len(spec.blocks)) if n not in first]
    assume(second)
    model, example = build(spec), inputs(spec, size)
    a = replace_attention(HyenaX(), layers=indices(*first), inherit="random")
    b = replace_attention(Scale(), layers=indices(*second))
    together = surgery.rewrite(model, [a, b], example)
    a_then_b = surgery.rewrite(surgery.rewrite(model, [a], example), [b], example)
    b_then_a = surgery.rewrite(surgery.rewrite(model, [b], example), [a], example)
    for student in (a_then_b, b_then_a):
        assert_same(dict(sorted(together.state_dict().items())), dict(sorted(student.state_dict().items())))
        assert_same(together(**example), student(**example))


@settings(max_examples=25, deadline=None)
@given(specs, sizes, st.data())
def test_nothing_outside_the_sites_changes(spec, size, data):
    model = build(spec)
    before = snapshot(model)
    chosen = layers_of(spec, data)
    student = surgery.rewrite(model, [replace_attention(Scale(), layers=indices(*chosen))], inputs(spec, size))
    assert_untouched(model, before)
    sites = tuple(f"blocks.{n}.attn." for n in chosen)
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith(sites)}
    assert_same(kept, {k: v for k, v in student.state_dict().items() if not k.startswith(sites)})
    shared = {id(p) for p in model.parameters()} & {id(p) for p in student.parameters()}
    assert not shared


@settings(max_examples=25, deadline=None)
@given(specs, sizes, st.data())
def test_a_failure_at_any_edit_leaves_the_model_untouched(spec, size, data):
    model = build(spec)
    graph = surgery.trace(model, inputs(spec, size))
    planned = surgery.plan(graph, [replace_attention(Scale())])
    step = data.draw(st.integers(0, len(planned.edits) - 1))
    before, code = snapshot(model), {p: s.recordings[0].code for p, s in graph.scopes.items()}
    real, calls = commits.put, []

    def failing(*args: Any) -> None:
        calls.append(args)
        if len(calls) > step:
            raise RuntimeError("injected")
        real(*args)

    commits.put = failing
    try:
        with pytest.raises(RuntimeError, match="injected"):
            surgery.rewrite(graph, [replace_attention(Scale())])
    finally:
        commits.put = real
    assert_untouched(model, before)
    assert code == {p: s.recordings[0].code for p, s in graph.scopes.items()}
    assert vars(model).keys() == vars(build(spec)).keys()


@settings(max_examples=25, deadline=None)
@given(specs, sizes, st.data())
def test_a_plan_counts_what_the_student_has(spec, size, data):
    model, example = build(spec), inputs(spec, size)
    rule = replace_attention(HyenaX(kernel=3), layers=indices(*layers_of(spec, data)))
    planned, student = surgery.plan(model, [rule], example), surgery.rewrite(model, [rule], example)
    assert planned.total.params.before == sum(p.numel() for p in model.parameters())
    assert planned.total.params.after == sum(p.numel() for p in student.parameters())
    assert planned.total.flops.before == surgery.trace(model, example).flops
    assert planned.total.flops.after == surgery.trace(student, example).flops


@settings(max_examples=25, deadline=None)
@given(model_specs(), sizes)
def test_matches_are_all_self_attentions_and_only_those(spec, size):
    graph = surgery.trace(build(spec), inputs(spec, size))
    kinds = [b.attention for b in (*spec.blocks[:-1], spec.blocks[0 if spec.shared else -1])]
    seen = dict.fromkeys(range(len(kinds) - (spec.shared and len(kinds) > 1)))
    expected = [n for n in seen if kinds[n] in ("separate", "fused")]
    assert sorted({o.layer for o in graph.operators("self_attention")}) == expected


@settings(max_examples=15, deadline=None)
@given(specs, sizes)
def test_the_same_module_claimed_twice_is_a_conflict(spec, size):
    model, example = build(spec), inputs(spec, size)
    rules = [replace_attention(Scale(), layers=indices(0)), replace_attention(HyenaX())]
    planned = surgery.plan(model, rules, example)
    assert [c.paths[0] for c in planned.conflicts] == ["blocks.0.attn"]
    with pytest.raises(RewriteError, match=r"both edit blocks\.0\.attn; narrow the layers"):
        surgery.rewrite(model, rules, example)


def test_zero_matches_is_an_error_that_says_what_there_is():
    spec = ModelSpec(1, 2, True, (with_cross(),), False, 1)
    words = "no self-attention or joint-attention to replace in TinyTransformer; it has 1 cross-attention, 1 mlp"
    with pytest.raises(MatchError, match=words):
        surgery.rewrite(build(spec), [replace_attention(Scale())], inputs(spec, (1, 2, 3)))


def with_cross() -> Any:
    from tests.strategies import BlockSpec

    return BlockSpec("cross", "module", "layer", False, False)
