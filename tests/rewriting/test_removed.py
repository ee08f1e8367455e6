"""A module that is taken out leaves behind what others use of it."""

from __future__ import annotations

import pytest

import surgery
from surgery.rewriting import indices
from surgery.rules import drop_blocks
from tests.compat.models import inputs, original
from tests.tracing.test_exact import assert_same


def test_the_first_block_of_dit_keeps_the_embedding_that_the_last_norm_calls(tmp_path):
    model, example = original("dit"), inputs("dit")
    rule = drop_blocks(layers=indices(0))
    plan, student = surgery.plan(model, [rule], example), surgery.rewrite(model, [rule], example)
    kept = {name for name in student.state_dict() if name.startswith("transformer_blocks.0.")}
    emb = "transformer_blocks.0.norm1.emb."
    assert kept == {name for name in model.state_dict() if name.startswith(emb)}
    assert plan.total.params.after == sum(p.numel() for p in student.parameters())
    loaded = surgery.load(surgery.save(student, tmp_path))
    assert_same(student(**example).sample, loaded(**example).sample)
    assert_same(model(**example).sample, surgery.undo(student)(**example).sample)


def test_a_block_that_nothing_else_uses_goes_whole():
    model, example = original("dit"), inputs("dit")
    student = surgery.rewrite(model, [drop_blocks(layers=indices(1))], example)
    assert not [name for name in student.state_dict() if name.startswith("transformer_blocks.1.")]


def test_what_asks_for_a_part_of_it_is_told_that_it_is_gone():
    model, example = original("dit"), inputs("dit")
    student = surgery.rewrite(model, [drop_blocks(layers=indices(1))], example)
    assert not hasattr(student.transformer_blocks[1], "attn1")
    with pytest.raises(AttributeError, match=r"transformer_blocks\.1: was taken out of this model, so it has no attn1"):
        _ = student.transformer_blocks[1].attn1
