"""MLPs of another width: wider ones compute the same, narrower ones keep what contributes most."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention import FeedForward
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import MLP, HiddenLinearMap, MLPDims
from surgery.operators.mlp import ACTIVATIONS, contributions
from surgery.rewriting import every, indices
from surgery.rules import mlp_ratio, replace_mlp
from tests.analysis.test_roles import CASES
from tests.nightly import examples

FAMILIES = ["DiTTransformer2DModel", "PixArtTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel",
            "WanTransformer3DModel"]  # fmt: skip
GATED = ["LuminaNextDiT2DModel", "ZImageTransformer2DModel", "Krea2Transformer2DModel", "Flux3Transformer2DModel"]
MADE_OF_NODES = ["ChromaTransformer2DModel", "HunyuanVideoTransformer3DModel", "BriaTransformer2DModel"]
CALLED_TWICE = ["CogView4Transformer2DModel"]  # for texts and images, with tokens of both numbers
OF_PAIRS = ["RFD4ProteinaTransformer"]
CUT_AT_FIXED_PLACES = ["Flux2Transformer2DModel"]


@pytest.mark.parametrize("name", [*FAMILIES, *GATED, *MADE_OF_NODES, *CALLED_TWICE, *OF_PAIRS, *CUT_AT_FIXED_PLACES])
def test_a_wider_mlp_preserves_the_function(name):
    case = CASES[name]
    model, call = case.model().double(), _double(case.example())
    student = surgery.rewrite(model, [mlp_ratio(6)], call)
    plan = surgery.plan(model, [mlp_ratio(6)], call)
    assert plan.total.params.after > plan.total.params.before
    assert plan.total.params.after == sum(p.numel() for p in student.parameters())
    assert plan.total.flops.after == surgery.trace(student, call).flops
    expected, actual = (pytree.tree_leaves(each(**copy.deepcopy(call))) for each in (model, student))
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-11)


def test_all_mlps_of_flux_are_found_and_keep_their_names():
    case = CASES["FluxTransformer2DModel"]
    model = case.model()
    student = surgery.rewrite(model, [mlp_ratio(6)], case.example())
    assert student.state_dict().keys() == model.state_dict().keys()
    assert student.single_transformer_blocks[0].proj_mlp.out_features == 6 * 32
    assert student.single_transformer_blocks[0].proj_out.in_features == 32 + 6 * 32


@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrower_one_runs_and_trains(name):
    case = CASES[name]
    student = surgery.rewrite(case.model(), [mlp_ratio(1.5, layers=every(2))], case.example())
    student(**case.example()).sample.square().sum().backward()
    new = next(module for module in student.modules() if isinstance(module, HiddenLinearMap))
    assert new.out_features == round(1.5 * new.in_features)
    assert new.weight.grad.abs().sum() > 0


def _double(call):
    return pytree.tree_map(lambda v: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v, call)


activations = st.sampled_from(sorted(ACTIVATIONS))
widths = st.integers(1, 6)


@examples(20)
@given(widths, st.integers(1, 20), st.floats(0.2, 5), activations, st.booleans(), st.booleans(), st.integers(0, 99))
def test_the_neurons_that_are_kept(dim, neurons, ratio, activation, up_bias, down_bias, seed):
    torch.manual_seed(seed)
    old = nn.Sequential(nn.Linear(dim, neurons, bias=up_bias), nn.Linear(neurons, dim, bias=down_bias)).double()
    dims = MLPDims(dim=dim, out_dim=dim, up_bias=up_bias, down_bias=down_bias, activation=activation)
    new = MLP(ratio=ratio).build(dims).double()
    new.inherit(old, "projections")
    up, down = old
    kept = sorted(range(neurons), key=lambda i: -float(contributions(up, down)[i].detach()))[: new.up.out_features]
    x = torch.randn(2, 3, dim).double()
    hidden = ACTIVATIONS[activation](up(x))[..., sorted(kept)]
    expected = hidden @ down.weight[:, sorted(kept)].T + (down.bias if down_bias else 0)
    torch.testing.assert_close(new(x), expected, rtol=0, atol=1e-12)


def test_another_activation():
    case = CASES["DiTTransformer2DModel"]
    student = surgery.rewrite(case.model(), [replace_mlp(MLP(ratio=4, activation="relu"))], case.example())
    assert {m.activation for m in student.modules() if type(m).__name__ == "MLPMixer"} == {"relu"}


def test_it_survives_an_artifact_and_undo(tmp_path):
    case = CASES["DiTTransformer2DModel"]
    model = case.model()
    student = surgery.rewrite(model, [mlp_ratio(2, layers=indices(1))], case.example())
    surgery.save(student, tmp_path / "student")
    assert surgery.load(tmp_path / "student")(**case.example()).sample.equal(student(**case.example()).sample)
    assert surgery.undo(student)(**case.example()).sample.equal(model(**case.example()).sample)


def test_convolutions_are_skipped_with_the_reason():
    case = CASES["SanaTransformer2DModel"]
    with pytest.raises(
        MatchError, match=r"skipped, e\.g\. transformer_blocks\.0\.ff: conv_point is a Conv2d; only linear layers can"
    ):
        surgery.plan(case.model(), [mlp_ratio(3)], case.example())


def test_an_operator_does_not_take_the_neurons_of_a_gated_mlp():
    with pytest.raises(RewriteError, match=r"FeedForward maps to 64 features and back from 32: it is gated"):
        MLP(ratio=2).build(MLPDims(dim=8, out_dim=8, up_bias=True, down_bias=True, activation="gelu")).inherit(
            FeedForward(8, activation_fn="geglu"), "projections"
        )


def test_a_gated_mlp_makes_way_for_an_operator_that_inherits_nothing():
    case = CASES["ZImageTransformer2DModel"]
    model, call = case.model(), case.example()
    with pytest.raises(MatchError, match=r"FeedForward has not two plain linear maps but Linear, Linear, Linear"):
        surgery.plan(model, [replace_mlp(MLP(ratio=2))], call)
    student = surgery.rewrite(model, [replace_mlp(MLP(ratio=2), inherit="random")], call)
    assert student.layers[0].feed_forward.up.out_features == 2 * model.layers[0].feed_forward.w1.in_features
    assert all(t.isfinite().all() for t in pytree.tree_leaves(student(**call)) if isinstance(t, torch.Tensor))
