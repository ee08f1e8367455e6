"""Other channel mixers in the place of an MLP, on models of five families."""

from __future__ import annotations

import pytest
import torch

import surgery
from surgery.errors import MatchError
from surgery.operators import MLP, ConvMLP, GatedMLP, HyenaXMLP
from surgery.rewriting import indices
from surgery.rules import mlp_ratio, replace_mlp
from tests.rules.students import check_student, graph, output

OPERATORS = {
    "activation": MLP(ratio=2, activation="silu"),
    "gated": GatedMLP(ratio=2),
    "convolution": ConvMLP(ratio=4, kernel=3),
    "hyena": HyenaXMLP(),
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", ["dit", "pixart", "wan"])
def test_students(name, operator, tmp_path):
    if (name, operator) == ("wan", "convolution"):
        pytest.skip("Wan's tokens are those of a video, which form no square")
    check_student(name, [replace_mlp(OPERATORS[operator], layers=indices(1, 2))], tmp_path)


def test_a_filter_that_starts_as_the_identity_keeps_the_function():
    student = surgery.rewrite(graph("dit"), [replace_mlp(ConvMLP(ratio=4, kernel=3))])
    torch.testing.assert_close(output(student, "dit"), output(graph("dit").model, "dit"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [1e6, 1e9, 1e300, 1.7e308])
def test_more_neurons_than_can_be_are_refused_before_anything_is_made_of_their_size(ratio):
    with pytest.raises(MatchError, match=r"more than 1,048,576 neurons is too large; choose a smaller ratio$"):
        surgery.plan(graph("dit"), [mlp_ratio(ratio)])
