"""Patterns: what they match, how they read, and which can never match."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import surgery
from surgery.errors import ConfigError, MatchError
from surgery.rewriting import block, chain, consecutive, find_sites, fork, node, repeated
from surgery.rewriting.pattern import AnyOf, GraphPattern, NodePattern  # noqa: F401 (what repr gives)
from surgery.testing import BlockSpec, ModelSpec, build, inputs, models, patterns, patterns_in
from surgery.testing.laws import matches_are_those_of_brute_force, matches_do_not_depend_on_names, pattern_survives_json


def view_of(model):
    return surgery.trace(model, inputs(model.spec, (2, 5, 3))).view


def traced(*blocks: BlockSpec, shared: bool = False):
    spec = ModelSpec(2, 2, True, blocks, shared, 4)
    return surgery.trace(build(spec), inputs(spec, (2, 5, 3)))


PLAIN = BlockSpec("separate", "module", "layer", False, False)


@given(models(), st.lists(patterns(), min_size=8, max_size=8), st.integers(0, 9))
def test_random_patterns_match_what_brute_force_finds(model, several, seed):
    view = view_of(model)
    for pattern in several:
        matches_are_those_of_brute_force(view, pattern)
        matches_do_not_depend_on_names(view, pattern, seed)


@given(models(), st.data())
def test_patterns_of_what_there_is_match_what_brute_force_finds(model, data):
    view = view_of(model)
    for _ in range(8):
        pattern = data.draw(patterns_in(view))
        matches_are_those_of_brute_force(view, pattern)
        matches_do_not_depend_on_names(view, pattern)


@given(patterns())
def test_patterns_are_data(pattern):
    pattern_survives_json(pattern)
    assert pattern == type(pattern).model_validate(pattern.model_dump())
    assert repr(pattern).startswith(type(pattern).__name__)
    assert str(pattern)


def test_two_blocks_in_a_row_overlap_at_the_middle_one():
    sites = find_sites(traced(PLAIN, PLAIN, PLAIN), consecutive(block(), 2))
    assert [site.path for site in sites] == ["blocks.0 + blocks.1", "blocks.1 + blocks.2"]
    assert sites[0]["b"].layer == 1


def test_a_run_is_as_long_as_it_goes_or_is_cut_into_pieces():
    graph = traced(PLAIN, PLAIN, PLAIN, PLAIN)
    assert [len(site.items) for site in find_sites(graph, repeated(block()))] == [4]
    assert [len(site.items) for site in find_sites(graph, repeated(block(), at_least=1, at_most=3))] == [3, 1]
    assert [len(site.items) for site in find_sites(graph, repeated(block(), at_least=2, at_most=3))] == [3]


def test_a_fork_names_its_branches_in_order_of_execution():
    linear = node(module_class="Linear", within="self_attention")
    attention = "blocks.0.attn"
    sites = find_sites(traced(PLAIN), fork(node(scope_class="TinyAttention"), linear, linear, linear))
    assert [[item.path for item in site.items.values()][1:] for site in sites] == [
        [f"{attention}.to_q", f"{attention}.to_k", f"{attention}.to_v"]
    ]


def test_a_negative_condition_leaves_the_last_block():
    pattern = consecutive(block(), 1).not_followed_by(block())
    assert [site.path for site in find_sites(traced(PLAIN, PLAIN, PLAIN), pattern)] == ["blocks.2"]
    first = consecutive(block(), 1).not_preceded_by(block())
    assert [site.path for site in find_sites(traced(PLAIN, PLAIN, PLAIN), first)] == ["blocks.0"]


def test_equal_patterns_are_equal_and_others_are_not():
    assert chain(node("norm"), node("mlp")) == chain(node("norm"), node("mlp"))
    assert hash(node("norm")) == hash(node("norm"))
    assert chain(node("norm"), node("mlp")) != chain(node("mlp"), node("norm"))
    assert node("norm") | node("mlp") != node("mlp") | node("norm")
    assert consecutive(block(), 2) == chain(block(), block())
    assert eval(repr(node(function="silu"))) == node(function="silu")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (node(), "node"),
        (node("self_attention"), "self-attention"),
        (block("Block"), "block of class Block"),
        (node(module_class="GELU"), "module of class GELU"),
        (node(function="silu", within="modulation"), "silu() in a modulation"),
        (node("norm", scope_class="Block"), "norm in the forward of Block"),
        (~node("norm"), "anything but norm"),
        (node("mlp") | node("norm"), "mlp or norm"),
        (chain(node("norm"), node("mlp")), "norm -> mlp"),
        (fork(node("norm"), block(), node("mlp")), "block and mlp that read the same norm"),
        (fork(node(), *[node("mlp")] * 3), "3 mlps that read the same tensor"),
        (fork(node("norm"), node(function="silu"), node(function="silu")), "2 silu() calls that read the same norm"),
        (
            fork(node(), *[node(module_class="A", within="mlp") | node(module_class="B", within="mlp")] * 2),
            "2 modules of class A or B in a mlp that read the same tensor",
        ),
        (node(function="chunk") | node(function="split") | node("mlp"), "chunk() or split() or mlp"),
        (node("mlp") | chain(node("norm"), node("mlp")), "mlp or norm -> mlp"),
        (block("A") | block("B") | block("C"), "block of class A, B or C"),
        (consecutive(block(), 3), "3 blocks in a row"),
        (chain(node()), "node"),
        (
            GraphPattern(nodes={"a": block(), "b": block(), "c": node()}, edges=(("a", "b"), ("a", "c"), ("b", "c"))),
            "a: block -> b: block, a: block -> c: node, b: block -> c: node",
        ),
        (chain(node("norm"), block()).not_followed_by(block()), "norm -> block, b not followed by block"),
        (repeated(block()), "2 or more blocks in a row"),
        (repeated(block(), 2, 4), "2 to 4 blocks in a row"),
    ],
)
def test_a_pattern_reads_like_what_it_matches(pattern, words):
    assert str(pattern) == words


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: GraphPattern(nodes={"a": block(), "b": block()}, edges=(("a", "b"), ("b", "a"))),
            r"can never match, as tensors cannot flow in a cycle \(a -> b -> \.\.\.\)",
        ),
        (lambda: GraphPattern(nodes={"a": block()}, edges=(("a", "a"),)), r"cannot flow in a cycle \(a -> \.\.\.\)"),
        (lambda: GraphPattern(nodes={"a": block(), "b": block()}, edges=()), "not connected by edges"),
        (lambda: GraphPattern(nodes={}, edges=()), "not connected by edges"),
        (lambda: GraphPattern(nodes={"a": block()}, edges=(("a", "z"),)), "no node is called 'z'; there are a"),
        (lambda: chain(block(), block()).not_followed_by(block(), "z"), "no node is called 'z'; there are a, b"),
        (
            lambda: node(module_class="GELU", function="gelu"),
            "no node calls both the module GELU and the function gelu",
        ),
        (lambda: repeated(block(), 3, 2), "from 3 to 2 nodes can never match; swap the numbers"),
    ],
)
def test_a_pattern_that_can_never_match_is_refused(make, words):
    with pytest.raises(MatchError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_graph_stands_for_no_single_node():
    pattern = chain(node("norm"), AnyOf(options=(block(), chain(block(), block()))))
    with pytest.raises(MatchError, match=r"2 blocks in a row is more than a single node; use it with \| only"):
        find_sites(traced(PLAIN), pattern)
    with pytest.raises(ConfigError):
        chain(node("norm"), chain(block(), block()))
