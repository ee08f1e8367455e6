"""Linear maps of one tensor fused, and split again: the function stays what it is."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

import surgery
from surgery.errors import MatchError
from surgery.operators import FusedLinearMap, HyenaX
from surgery.recording.paths import put
from surgery.rules import fuse_projections, replace_attention, split_projections
from surgery.testing import BlockSpec, ModelSpec, build, inputs
from tests.compat import models
from tests.rules.students import check_student, graph, output

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


@pytest.mark.parametrize(("name", "role", "count"), WHERE)
def test_fused_trained_and_split(name, role, count, tmp_path):
    teacher = graph(name).model
    fused = surgery.rewrite(graph(name), [fuse_projections(count, within=role)])
    torch.manual_seed(1)
    for parameter in fused.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    split = surgery.rewrite(fused, [split_projections(within=role)], models.inputs(name))
    torch.testing.assert_close(output(split, name), output(fused, name), rtol=1e-5, atol=1e-5)
    again = surgery.rewrite(split, [fuse_projections(count, within=role)], models.inputs(name))
    torch.testing.assert_close(output(again, name), output(fused, name), rtol=1e-5, atol=1e-5)
    plain = copy.deepcopy(teacher)
    plain.load_state_dict(split.state_dict())  # every name, and no other
    torch.testing.assert_close(output(plain, name), output(split, name), rtol=1e-5, atol=1e-5)
    loaded = surgery.load(surgery.save(split, tmp_path))
    assert torch.equal(output(loaded, name), output(split, name))
    kinds = [[(path, type(module)) for path, module in m.named_modules()] for m in (surgery.undo(split), teacher)]
    assert kinds[0] == kinds[1]


def test_adapters_on_a_fused_map():
    student = surgery.rewrite(graph("wan"), [fuse_projections()])
    before = output(student, "wan")
    config = LoraConfig(r=2, init_lora_weights=False, target_modules=".*_fused")
    adapted = get_peft_model(copy.deepcopy(student), config)
    assert not torch.equal(output(adapted, "wan"), before)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(output(merged, "wan"), output(adapted, "wan"), rtol=1e-5, atol=1e-5)


def test_what_quantisers_put_in_the_place_of_a_fused_map():
    student = surgery.rewrite(graph("wan"), [fuse_projections()])
    before = output(student, "wan")
    for path, module in list(student.named_modules()):
        if isinstance(module, FusedLinearMap):
            put(student, path, Quantised(module))
    assert torch.equal(output(student, "wan"), before)


class Quantised(torch.nn.Module):
    """A linear map of another class that takes its tensor by position, as those of quantisers."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)


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
    with pytest.raises(
        MatchError, match="nothing in it is a: module of class Linear or LinearPartMap in a cross-attention"
    ):
        surgery.plan(graph("dit"), [fuse_projections(2, within="cross_attention")])
    student = surgery.rewrite(graph("dit"), [replace_attention(HyenaX())])
    with pytest.raises(MatchError, match="nothing in it is whole: module of class Linear"):
        surgery.plan(student, [split_projections()], models.inputs("dit"))
