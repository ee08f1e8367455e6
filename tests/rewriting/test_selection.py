"""Selections: which sites, how they compose, and what they say."""

from __future__ import annotations

import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import HyenaX
from surgery.rewriting import Selection, all_layers, every, find_sites, indices, node, three_of_four, top, where
from surgery.rules import replace_attention
from surgery.testing import BlockSpec, ModelSpec, build, inputs

BLOCK = BlockSpec("separate", "module", "layer", modulated=False, in_place=False)
DEEP = ModelSpec(2, 4, True, (BLOCK,) * 8, shared=False, branch=5)
GRAPH = surgery.trace(build(DEEP), inputs(DEEP, (1, 4, 2)))
SITES = find_sites(GRAPH, node("self_attention"))

plain = st.one_of(
    st.just(all_layers()),
    st.just(three_of_four()),
    st.integers(1, 9).map(every),
    st.lists(st.integers(0, 7), min_size=1, max_size=4).map(lambda layers: indices(*layers)),
)
selections = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.builds(operator.and_, inner, inner),
        st.builds(operator.or_, inner, inner),
        st.builds(operator.invert, inner),
        st.builds(lambda n, of: every(n, of=of), st.integers(1, 3), inner),
    ),
    max_leaves=6,
)


def layers(selection) -> list[int]:
    paths = selection.select(SITES)
    return [site.operator.layer for site in SITES if site.path in paths]


def test_layers_that_each_selects():
    assert layers(every(2)) == [1, 3, 5, 7]
    assert layers(three_of_four()) == [1, 2, 3, 5, 6, 7]
    assert layers(indices(6, 0)) == [0, 6]
    assert layers(every(3, first=0)) == [0, 3, 6]
    assert layers(every(2) & ~indices(1)) == [3, 5, 7]
    assert layers(indices(0) | every(4)) == [0, 3, 7]
    assert layers(where(lambda site: site.operator.layer > 5)) == [6, 7]
    assert layers(top(lambda site: -site.operator.layer, 2)) == [0, 1]


@settings(max_examples=30, deadline=None)
@given(selections, selections)
def test_composition_is_that_of_sets(a, b):
    first, second, every_path = a.select(SITES), b.select(SITES), {site.path for site in SITES}
    assert (a & b).select(SITES) == first & second
    assert (a | b).select(SITES) == first | second
    assert (~a).select(SITES) == every_path - first
    assert (~~a).select(SITES) == first


@settings(max_examples=30, deadline=None)
@given(selections, st.integers(1, 4))
def test_those_in_turn_are_all_that_were_chosen_each_once_and_in_order(chosen, n):
    turns = [layers(every(n, first=turn, of=chosen)) for turn in range(n)]
    assert turns == [layers(chosen)[turn::n] for turn in range(n)]


@settings(max_examples=30, deadline=None)
@given(selections)
def test_json_and_words(selection):
    adapter = TypeAdapter(Selection)
    assert adapter.validate_json(adapter.dump_json(selection)) == selection
    names = {"all_layers": all_layers, "every": every, "three_of_four": three_of_four, "indices": indices}
    assert eval(str(selection), names) == selection  # what it says is how one writes it


def test_a_layer_that_does_not_exist_is_named_inside_others_too():
    with pytest.raises(MatchError, match=r"indices\(9\): no such layer: 9; the model's layers are 0 to 7"):
        (every(2) & ~indices(9)).select(SITES)


def test_a_composed_selection_in_a_rule():
    plan = surgery.plan(GRAPH, [replace_attention(HyenaX(), layers=every(2) & ~indices(1))])
    assert [edit.layer for edit in plan.edits] == [3, 5, 7]
    assert {skipped.reason for skipped in plan.skipped} == {"not selected by (every(2) & ~indices(1))"}


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (top(lambda site: None, 2), "must be real number, not NoneType"),  # type: ignore[arg-type,return-value]
        (top(lambda site: float("nan") if site.operator.layer == 3 else 1.0, 2), "gives no number"),
        (where(lambda site: torch.ones(2) > 0), "Boolean value of Tensor"),  # type: ignore[arg-type,return-value]
    ],
)
def test_what_gives_no_single_number_or_truth_is_an_error_that_names_the_site(selection, reason):
    with pytest.raises(RewriteError, match=rf"at blocks\.\d\S*: .*{reason}"):
        selection.select(SITES)
