"""The core of attention that is more than plain: with norms and rotary embeddings, joint, masked, crossed."""

from __future__ import annotations

import pytest
import torch

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import (
    TTT,
    Blend,
    FullAttention,
    GatedDelta,
    GroupedQueryAttention,
    HyenaX,
    LinearAttention,
    Mamba2,
    MixerDims,
    NeighbourhoodAttention,
    SlidingWindow,
    SparseLinear,
)
from surgery.rewriting import every, find_sites, indices, node
from surgery.rules import alternate, replace_attention
from surgery.testing import check_rule
from tests.rules.students import check_student, graph, output

HYBRID = Blend(parts=(SlidingWindow(window=1), LinearAttention(features="learned", centre=True)))
OPERATORS = [
    HyenaX(kernel=3), LinearAttention(), SlidingWindow(window=1), GroupedQueryAttention(groups=1), Mamba2(), HYBRID,
]  # fmt: skip


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)
def test_students(name, operator, tmp_path):
    student = check_student(name, [replace_attention(operator, layers=indices(1, 2))], tmp_path)
    assert not torch.equal(output(student, name), output(graph(name).model, name))


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_a_core_that_computes_the_same_changes_nothing(name):
    teacher = output(graph(name).model, name)
    for operator, tolerance in ((FullAttention(), 0.0), (SlidingWindow(window=64), 1e-5)):
        student = surgery.rewrite(graph(name), [replace_attention(operator)])
        torch.testing.assert_close(output(student, name), teacher, rtol=tolerance, atol=tolerance)


def test_mixers_take_turns(tmp_path):
    near, far = SlidingWindow(window=1), NeighbourhoodAttention(window=3, dilation=2, axes=1)
    rules = alternate(near, far, layers=~indices(3))
    edits = surgery.plan(graph("flux"), rules).edits
    kinds = {edit.path: edit.label for edit in edits if not edit.path.startswith("single")}
    assert kinds == {f"transformer_blocks.{i}.attn": (type(near), type(far))[i % 2].__name__ for i in range(3)}
    check_student("flux", rules, tmp_path)
    halves = [rule.layers for rule in alternate(near, far, layers=every(2))]
    sites = find_sites(graph("flux"), node("joint_attention"))
    assert [sorted(half.select(sites)) for half in halves] == [
        ["transformer_blocks.1.attn"],
        ["transformer_blocks.3.attn"],
    ]


def test_four_new_mixers_in_one_model(tmp_path):
    new = [SparseLinear(block=2, top=1), GatedDelta(kernel=2), TTT(inner="gated", chunk=4), HYBRID]
    check_student("wan", alternate(*new), tmp_path)


def test_a_blend_that_starts_as_full_attention_changes_nothing():
    blend = Blend(parts=(FullAttention(), LinearAttention()), start="first")
    for name in ("sd3", "wan"):
        student = surgery.rewrite(graph(name), [replace_attention(blend, inherit="exact")])
        torch.testing.assert_close(output(student, name), output(graph(name).model, name))


IMAGES = {"sd3": ((4, 4), "last"), "flux": ((2, 2), "first"), "wan": ((2, 2, 2), None)}
ON_A_GRID = {
    "neighbourhood": lambda grid, text: NeighbourhoodAttention(window=3, grid=grid, text=text),
    "hyena": lambda grid, text: HyenaX(kernel=3, grid=grid, text=text),
    "linear": lambda grid, text: LinearAttention(depthwise=3, grid=grid, text=text),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("operator", ON_A_GRID)
def test_images_beside_a_text(name, operator, tmp_path):
    check_student(name, [replace_attention(ON_A_GRID[operator](*IMAGES[name]), layers=indices(1, 2))], tmp_path)


def test_a_neighbourhood_of_all_image_tokens_and_the_text_changes_nothing():
    for name in ("sd3", "flux"):
        grid, text = IMAGES[name]
        student = surgery.rewrite(
            graph(name), [replace_attention(NeighbourhoodAttention(window=5, grid=grid, text=text), layers=indices(1))]
        )
        torch.testing.assert_close(output(student, name), output(graph(name).model, name), rtol=1e-5, atol=1e-5)


def test_all_projections_stay():
    student = surgery.rewrite(graph("flux"), [replace_attention(HyenaX(kernel=3))])
    before, after = graph("flux").model.state_dict(), student.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {name.split(".")[3] for name in after.keys() - before.keys()} == {"scaled_dot_product_attention_core"}


def test_cross_attention(tmp_path):
    check_student("wan", [replace_attention(LinearAttention(), role="cross_attention")], tmp_path)
    for role, across in (("cross_attention", True), ("self_attention", False)):
        edits = surgery.plan(graph("wan"), [replace_attention(LinearAttention(), role=role)]).edits
        assert {new.dims.across for edit in edits for new in edit.made} == {across}
    with pytest.raises(MatchError, match="has 8 queries and 5 keys, needs as many of both"):
        surgery.plan(graph("wan"), [replace_attention(HyenaX(), role="cross_attention")])


def test_what_cannot_be_replaced_says_why():
    with pytest.raises(MatchError, match=r"nor can its core be replaced: HyenaCore: has 4 queries and 5 keys"):
        surgery.plan(graph("pixart"), [replace_attention(HyenaX(), role="cross_attention")])
    with pytest.raises(MatchError, match="its core can be replaced with inherit='projections'"):
        surgery.plan(graph("flux"), [replace_attention(HyenaX(), inherit="random")])


class Masked(torch.nn.Module):
    """Attention with a mask of keys, or of pairs of queries and keys."""

    def __init__(self, of_pairs: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.of_pairs = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16), of_pairs

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        seen = mask[:, None, None]
        if self.of_pairs:
            seen = seen & mask[:, None, :, None]
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("of_pairs", [False, True])
@pytest.mark.parametrize("tokens", [9, 8])  # 8 is the width of a head, too
@pytest.mark.parametrize("operator", [SlidingWindow(window=2), LinearAttention(), HyenaX(), HYBRID, GatedDelta()])
def test_self_attention_with_a_mask(operator, tokens, of_pairs):
    inputs = {"x": torch.randn(3, tokens, 16), "mask": torch.ones(3, tokens, dtype=torch.bool)}
    check_rule(replace_attention(operator), model=Masked(of_pairs).eval(), inputs=inputs)


def test_a_core_with_weights_takes_as_many_heads_as_it_was_made_for():
    dims = MixerDims(dim=32, heads=4, head_dim=8, qkv_bias=False, out_bias=False)
    q = torch.randn(1, 6, 5, 8)
    with pytest.raises(RewriteError, match="has 6 heads where its weights are for 4"):
        HyenaX(kernel=3).core(dims)(q, q, q)
    assert FullAttention().core(dims)(q, q, q).shape == q.shape
