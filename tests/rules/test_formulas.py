"""Whatever formula an attention or MLP has: a rule keeps what it claims to keep, or refuses the site with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import MLP, FullAttention, GatedMLP, GroupedQueryAttention, LinearAttention, SlidingWindow
from surgery.rewriting import Rule
from surgery.rules import mlp_ratio, replace_attention, replace_mlp
from surgery.testing import profiles
from tests.rules.formulas import (
    DIM,
    TOKENS,
    Attention,
    AttentionFormula,
    Blocks,
    FeedForward,
    MLPFormula,
    attentions,
    mlps,
)

EXAMPLES = 1000 if profiles.chosen() == "nightly" else 20
EIGHT = {"min_size": 8, "max_size": 8, "unique": True}
SIZES = ((2, TOKENS), (3, TOKENS), (1, 12))

KEPT = {
    "full": replace_attention(FullAttention()),
    "full, exact": replace_attention(FullAttention(), inherit="exact"),
    "grouped, exact": replace_attention(GroupedQueryAttention(groups=2), inherit="exact"),
    "window, exact": replace_attention(SlidingWindow(window=64), inherit="exact"),
}
OTHER = {"window": replace_attention(SlidingWindow(window=1)), "linear": replace_attention(LinearAttention())}
KEPT_MLPS = {
    "wider": mlp_ratio(3),
    "wider, exact": mlp_ratio(4, inherit="exact"),
    "as wide": replace_mlp(MLP(ratio=2)),
    "wider MLP, exact": replace_mlp(MLP(ratio=3), inherit="exact"),
    "gated, exact": replace_mlp(GatedMLP(ratio=2), inherit="exact"),
}
OTHER_MLPS = {"narrower": mlp_ratio(1)}


@settings(max_examples=EXAMPLES)
@given(st.lists(attentions, **EIGHT), st.sampled_from(sorted(KEPT)), st.integers(0, 999))
def test_attention_stays_what_it_is(formulas: list[AttentionFormula], rule: str, seed: int) -> None:
    assert_kept(Blocks(Attention, formulas, seed), KEPT[rule])


@settings(max_examples=EXAMPLES)
@given(st.lists(mlps, **EIGHT), st.sampled_from(sorted(KEPT_MLPS)), st.integers(0, 999))
def test_mlps_stay_what_they_are(formulas: list[MLPFormula], rule: str, seed: int) -> None:
    assert_kept(Blocks(FeedForward, formulas, seed), KEPT_MLPS[rule])


@settings(max_examples=EXAMPLES // 2)
@given(st.lists(attentions, **EIGHT), st.sampled_from(sorted(OTHER)))
def test_what_is_planned_for_attention_runs(formulas: list[AttentionFormula], rule: str) -> None:
    assert_runs(Blocks(Attention, formulas, 0), OTHER[rule])


@settings(max_examples=EXAMPLES // 2)
@given(st.lists(mlps, **EIGHT), st.sampled_from(sorted(OTHER_MLPS)))
def test_what_is_planned_for_mlps_runs(formulas: list[MLPFormula], rule: str) -> None:
    assert_runs(Blocks(FeedForward, formulas, 0), OTHER_MLPS[rule])


@pytest.mark.parametrize("rule", ["full", "full, exact"])
@pytest.mark.parametrize("layout", ["unflatten", "view"])
@pytest.mark.parametrize("mix", ["kernel", "kernel, usual scale", "written"])
def test_plain_attention_is_replaced_as_a_whole(mix: str, layout: str, rule: str) -> None:
    formula = AttentionFormula(layout, "nothing", "all", mix, "nothing", "nothing", True)
    (edit,) = surgery.plan(Blocks(Attention, [formula], 0).eval(), [KEPT[rule]], inputs_of(2, TOKENS)).edits
    assert edit.replacement.kind == "operator"


@pytest.mark.parametrize("activation", ["gelu", "tanh", "silu", "relu"])
def test_plain_mlps_are_replaced(activation: str) -> None:
    model = Blocks(FeedForward, [MLPFormula("one", activation, "nothing", "nothing")], 0).double().eval()
    inputs = {"x": inputs_of(2, TOKENS)["x"].double()}
    for name in ("wider", "as wide", "wider MLP, exact"):
        student = surgery.rewrite(model, [KEPT_MLPS[name]], inputs)
        torch.testing.assert_close(student(**inputs), model(**inputs))


def test_an_mlp_whose_linear_maps_stand_outside_of_what_matched() -> None:
    """Such a match costs nothing by itself, so the costs of the maps cannot be told by its own."""
    around = [
        MLPFormula("one", "squared", "learned", "with input"),
        MLPFormula("one", "gelu", "with input", "with input"),
    ]
    assert_kept(Blocks(FeedForward, around, 279), KEPT_MLPS["wider, exact"])


def assert_kept(model: Blocks, rule: Rule) -> None:
    """The student computes what the model does, on every size that this takes."""
    for got, expected in results(model.double().eval(), rule):
        assert float((got - expected).abs().max()) < 1e-6 * (1 + float(expected.abs().max()))


def assert_runs(model: Blocks, rule: Rule) -> None:
    """The student takes every size that the model takes."""
    for got, expected in results(model.double().eval(), rule):
        assert got.shape == expected.shape


def results(model: nn.Module, rule: Rule) -> Iterator[tuple[Tensor, Tensor]]:
    """What student and model give; nothing if every site is refused, each with a reason."""
    try:
        student = surgery.rewrite(model, [rule], {"x": inputs_of(2, TOKENS)["x"].double()})
    except (MatchError, RewriteError) as error:
        if len(str(error)) < 40:  # no site, or no reason
            raise
        return
    with torch.no_grad():
        for sizes in SIZES:
            x = inputs_of(*sizes)["x"].double()
            try:
                expected = model(x)
            except RuntimeError:
                continue
            if expected.isfinite().all():
                yield student(x), expected


def inputs_of(batch: int, tokens: int) -> dict[str, Any]:
    """Random tokens."""
    return {"x": torch.randn(batch, tokens, DIM, generator=torch.Generator().manual_seed(batch))}
