"""Plans of full-size models on the meta device, against the figures of the grafting paper (arXiv 2506.05340, Table 4)."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel

import surgery
from surgery.operators import HyenaSE, HyenaX, HyenaY, Mamba2, SlidingWindow
from surgery.rewriting import all_layers, every, three_of_four
from surgery.rules import mlp_ratio, parallel_pairs, replace_attention

DIGIT = 0.00513  # half a printed digit, and what tests/operators/test_costs.py says of two figures


@pytest.fixture(scope="module")
def dit_xl2() -> surgery.ModelGraph:
    with torch.device("meta"):
        model = DiTTransformer2DModel(
            num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32,
            num_embeds_ada_norm=1000,
        ).eval()  # fmt: skip
        zero = torch.zeros(1, dtype=torch.long)
        return surgery.trace(
            model, {"hidden_states": torch.zeros(1, 4, 32, 32), "timestep": zero, "class_labels": zero}
        )


ROWS = {
    "hyena_se": (HyenaSE(kernel=4, causal=True), (-49.52, -74.27, -99.03), (0.22, 0.33, 0.43)),
    "hyena_y": (HyenaY(kernel=4, causal=True), (-49.52, -74.27, -99.03), (0.05, 0.08, 0.11)),
    "hyena_x": (HyenaX(kernel=4, causal=True), (-49.90, -74.85, -99.81), (0.16, 0.24, 0.33)),
    "window": (SlidingWindow(window=4), (-48.24, -72.36, -96.48), (0.0, 0.0, 0.0)),
    "mamba2": (Mamba2(causal=True), (-37.59, -56.38, -75.17), (28.02, 42.04, 56.05)),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_published_rows(dit_xl2, name):
    operator, mixing, params = ROWS[name]
    old = dit_xl2.operators("self_attention")
    for layers, *published in zip((every(2), three_of_four(), all_layers()), mixing, params, strict=True):
        plan = surgery.plan(dit_xl2, [replace_attention(operator, layers=layers)])
        changes = [
            100 * (change.after - change.before) / sum(getattr(each, count) for each in old)
            for count, change in (("flops_mixing", plan.total.flops_mixing), ("params", plan.total.params))
        ]
        assert changes == pytest.approx(published, abs=DIGIT)


@pytest.mark.parametrize(("ratio", "published"), [(3, (-12.5, -18.75, -25)), (6, (25, 37.5, 50))])
def test_the_rows_of_the_mlp_ratio(dit_xl2, ratio, published):
    old = sum(operator.flops for operator in dit_xl2.operators("mlp"))
    for layers, expected in zip((every(2), three_of_four(), all_layers()), published, strict=True):
        change = surgery.plan(dit_xl2, [mlp_ratio(ratio, layers=layers)]).total.flops
        assert 100 * (change.after - change.before) / old == expected


def test_the_cost_of_full_attention(dit_xl2):
    attention = dit_xl2.operators("self_attention")[0]
    n, d, h = 256, 1152, 16
    assert attention.flops_mixing == 4 * n * n * d + 3 * h * n * n
    assert attention.flops == attention.flops_mixing + 8 * n * d * d


def test_the_depth_to_width_model(dit_xl2):
    plan = surgery.plan(dit_xl2, [parallel_pairs()])
    assert [edit.layer for edit in plan.edits] == list(range(0, 28, 2))
    assert plan.total.params.after - plan.total.params.before == 14 * (2 * 1152**2 + 1152)  # "+37 M"
