"""A replacement that does not fit is refused before anything is changed."""

from __future__ import annotations

import pytest
import torch

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import ConvMLP, FullAttention, HyenaX, LinearAttention, NeighbourhoodAttention, SlidingWindow
from surgery.rewriting import every, indices
from surgery.rules import replace_attention, replace_mlp
from tests.analysis.test_roles import CASES
from tests.rewriting.operators import FixedLength, Narrow
from tests.tracing.test_exact import dit, dit_inputs, pixart, pixart_inputs


def test_a_wrong_width_is_refused():
    with pytest.raises(RewriteError, match=r"attn1: narrow gives \(1, 16, 8\) float32 where \(1, 16, 16\) float32"):
        surgery.rewrite(dit(), [replace_attention(Narrow())], dit_inputs(1, 8))


def test_an_operator_for_one_resolution_is_refused():
    with pytest.raises(RewriteError, match=r"attn1: fixed gives \(4, 16, 16\) float32 where \(1, 64, 16\) float32"):
        surgery.rewrite(dit(), [replace_attention(FixedLength(tokens=16))], dit_inputs(1, 8))


def test_layers_that_do_not_exist_are_named():
    with pytest.raises(MatchError, match=r"indices\(9, 1, 7\): no such layer: 7, 9; the model's layers are 0 to 2"):
        surgery.rewrite(dit(), [replace_attention(HyenaX(), layers=indices(9, 1, 7))], dit_inputs(1, 8))


def test_a_selection_that_leaves_nothing_says_so():
    with pytest.raises(MatchError, match=r"3 matched and were skipped, e\.g\. .* not selected by every\(9\)"):
        surgery.rewrite(dit(), [replace_attention(HyenaX(), layers=every(9))], dit_inputs(1, 8))


def test_masked_attention_is_replaced_at_its_core():
    model = pixart()
    call = pixart_inputs(1, 8, 8, 5) | {"attention_mask": (torch.arange(16) < 12)[None].float()}
    assert surgery.plan(model, [replace_attention(HyenaX())], call).edits
    student = surgery.rewrite(model, [replace_attention(SlidingWindow(window=16))], call)
    torch.testing.assert_close(student(**call).sample, model(**call).sample, rtol=1e-4, atol=1e-5)
    unmasked = call | {"attention_mask": torch.ones(1, 16)}
    assert not torch.allclose(student(**call).sample, student(**unmasked).sample)


@pytest.mark.parametrize("operator", [HyenaX(), SlidingWindow(window=4), FullAttention()])
def test_the_student_is_still_its_class_and_runs_at_other_sizes(operator):
    for model, small, large in (
        (dit(), dit_inputs(1, 8), dit_inputs(3, 12)),
        (pixart(), pixart_inputs(1, 8, 8, 5), pixart_inputs(2, 4, 12, 3)),
    ):
        student = surgery.rewrite(model, [replace_attention(operator, layers=every(2))], small)
        assert isinstance(student, type(model))
        assert student(**large).sample.shape == model(**large).sample.shape
        assert surgery.trace(student, small).module()(**large).sample.equal(student(**large).sample)


def test_a_window_that_covers_all_tokens_is_exact_to_rounding():
    model, call = dit(), dit_inputs(2, 8)
    student = surgery.rewrite(model, [replace_attention(SlidingWindow(window=16))], call)
    torch.testing.assert_close(student(**call).sample, model(**call).sample, rtol=1e-4, atol=1e-5)


def test_random_weights_come_from_the_seed_alone():
    rules = [replace_attention(HyenaX(), inherit="random")]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = surgery.rewrite(dit(), rules, dit_inputs(1, 8), seed=5)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    two = surgery.rewrite(dit(), rules, dit_inputs(1, 8), seed=5)
    other = surgery.rewrite(dit(), rules, dit_inputs(1, 8), seed=6)
    weight = "transformer_blocks.1.attn1.in_proj.weight"
    assert one.state_dict()[weight].equal(two.state_dict()[weight])
    assert not one.state_dict()[weight].equal(other.state_dict()[weight])


GRID = (2, 6)
ON_A_GRID = [
    replace_attention(HyenaX(kernel=3, grid=GRID)),
    replace_attention(NeighbourhoodAttention(window=3, grid=GRID)),
    replace_attention(LinearAttention(depthwise=3, grid=GRID)),
    replace_mlp(ConvMLP(ratio=4, kernel=3, grid=GRID)),
]


@pytest.mark.parametrize("rule", ON_A_GRID, ids=lambda rule: rule.operator.kind)
def test_operators_on_a_grid_of_their_own(rule):
    model, call = pixart(), pixart_inputs(1, 4, 12, 5)
    student = surgery.rewrite(model, [rule], call)
    assert student(**pixart_inputs(3, 4, 12, 2)).sample.isfinite().all()
    with pytest.raises(RewriteError, match=r"16 tokens do not lie on a 2 x 6 grid of 2 axes; give the operator their"):
        surgery.plan(model, [rule], pixart_inputs(1, 8, 8, 5))


def test_an_operator_on_the_grid_of_a_video():
    case = CASES["WanTransformer3DModel"]
    rule = replace_attention(NeighbourhoodAttention(window=3, grid=(2, 3, 3)))
    student = surgery.rewrite(case.model(), [rule], case.example())
    assert student(**case.example()).sample.isfinite().all()


def test_a_neighbourhood_that_covers_the_grid_is_exact():
    model, call = dit(), dit_inputs(2, 8)
    rule = replace_attention(NeighbourhoodAttention(window=7, grid=(4, 4)), inherit="exact")
    student = surgery.rewrite(model, [rule], call)
    torch.testing.assert_close(student(**call).sample, model(**call).sample, rtol=1e-4, atol=1e-5)
