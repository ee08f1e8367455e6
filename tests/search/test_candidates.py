"""Candidates, and which of them exclude each other."""

from __future__ import annotations

import random

import pytest
from diffusers import DiTTransformer2DModel

import surgery
from surgery.errors import MatchError
from surgery.models.inputs import example_inputs
from surgery.operators import HyenaX, SlidingWindow
from surgery.rewriting import all_layers, every, indices
from surgery.rules import drop_blocks, mlp_ratio, parallel_pairs, replace_attention, share_blocks
from surgery.search.candidates import chosen_rules, exclusions, find_candidates

RULES = (
    replace_attention(HyenaX(kernel=3)),
    replace_attention(SlidingWindow(window=3), layers=every(2)),
    mlp_ratio(2),
    parallel_pairs(),
    drop_blocks(layers=all_layers()),
    share_blocks(),
)


@pytest.fixture(scope="module")
def graph():
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=4, sample_size=8, num_embeds_ada_norm=10,
        norm_num_groups=1,
    )  # fmt: skip
    return surgery.trace(model, example_inputs(model))


@pytest.fixture(scope="module")
def candidates(graph):
    return find_candidates(graph, RULES)


def test_every_rule_has_its_layers(graph, candidates):
    layers = len(set(graph.layers.values()))
    found = {number: [each.layer for each in candidates if each.number == number] for number in range(len(RULES))}
    assert found[0] == found[2] == found[4] == list(range(layers))
    assert found[1] == [layer for layer in range(layers) if layer % 2]
    assert found[3] == found[5] == list(range(layers - 1))


def test_a_rule_that_fits_nowhere_says_why(graph):
    with pytest.raises(MatchError, match="no such layer: 99"):
        find_candidates(graph, [replace_attention(HyenaX(), layers=indices(99))])


def test_whatever_does_not_exclude_itself_is_planned_as_a_whole_and_costs_the_sum(graph, candidates):
    apart = set(exclusions(candidates))
    draw = random.Random(0)
    for _ in range(6):
        chosen: list[int] = []
        for n in draw.sample(range(len(candidates)), len(candidates)):
            if not any((min(m, n), max(m, n)) in apart for m in chosen) and draw.random() < 0.7:
                chosen.append(n)
        taken = [candidates[n] for n in sorted(chosen)] or candidates[:1]
        planned = surgery.plan(graph, chosen_rules(graph, taken))
        assert not planned.conflicts
        assert {(e.rule, e.path) for e in planned.edits} == {(e.rule, e.path) for c in taken for e in c.edits}
        added = [candidate.change(graph.model) for candidate in taken]
        for name in ("flops", "params", "memory"):
            total = getattr(planned.total, name)
            assert total.after - total.before == sum(change[name] for change in added), name


def test_what_excludes_each_other_conflicts_in_a_plan(graph, candidates):
    apart = exclusions(candidates)
    assert apart
    for a, b in random.Random(1).sample(apart, 12):
        one, other = candidates[a], candidates[b]
        same_rule = one.number == other.number
        try:
            planned = surgery.plan(graph, chosen_rules(graph, [one, other]))
        except surgery.errors.SurgeryError:
            continue
        assert planned.conflicts or (same_rule and len(planned.edits) < len(one.edits) + len(other.edits))
