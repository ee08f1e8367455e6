"""Linear maps of one tensor fused, and split again: the function stays what it is."""

from __future__ import annotations

import pytest
import torch

import surgery
from surgery.errors import MatchError
from surgery.operators import HyenaX
from surgery.rules import fuse_projections, replace_attention, split_projections
from tests.compat import models
from tests.rules.students import check_student, graph, output
from tests.strategies import BlockSpec, ModelSpec, build, inputs

WHERE = [
    ("dit", "self_attention", 3),
    ("sd3", "joint_attention", 3),
    ("flux", "self_attention", 3),
    ("wan", "cross_attention", 2),
]


@pytest.mark.parametrize(("name", "role", "count"), WHERE)
def test_fused(name, role, count, tmp_path):
    student = check_student(name, [fuse_projections(count, within=role)], tmp_path)
    torch.testing.assert_close(output(student, name), output(graph(name).model, name), rtol=1e-5, atol=1e-5)
    params = [sum(p.numel() for p in m.parameters()) for m in (student, graph(name).model)]
    assert params[0] == params[1]


def fused_model() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    block = BlockSpec("fused", "module", "layer", modulated=False, in_place=False)
    spec = ModelSpec(2, 4, True, (block,) * 2, shared=False, branch=5)
    return build(spec), inputs(spec, (2, 4, 3))


def test_split_and_fused_again():
    model, call = fused_model()
    split = surgery.rewrite(model, [split_projections()], call)
    names = {name.removesuffix(".weight") for name in split.state_dict() if name.startswith("blocks.0.attn.")}
    assert {"blocks.0.attn.to_qkv_part_0", "blocks.0.attn.to_qkv_part_2"} <= names
    assert "blocks.0.attn.to_qkv" not in names
    torch.testing.assert_close(split(**call), model(**call), rtol=1e-5, atol=1e-6)
    restored = surgery.undo(split)
    assert torch.equal(restored(**call)["sample"], model(**call)["sample"])


def test_what_is_no_match():
    with pytest.raises(MatchError, match="nothing in it is a: module of class Linear in a cross-attention"):
        surgery.plan(graph("dit"), [fuse_projections(2, within="cross_attention")])
    student = surgery.rewrite(graph("dit"), [replace_attention(HyenaX())])
    with pytest.raises(MatchError, match="nothing in it is whole: module of class Linear"):
        surgery.plan(student, [split_projections()], models.inputs("dit"))
