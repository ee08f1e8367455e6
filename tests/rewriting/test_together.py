"""Several edits of one model: what cannot be told apart conflicts, and what was done in turn is undone in turn."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.errors import RewriteError
from surgery.operators import JoinerDims, SlidingWindow
from surgery.rewriting import Call, New, Pattern, Rewiring, Rule, Site, block, indices, node
from surgery.rules import drop_blocks, duplicate_blocks, mlp_ratio, parallel_pairs, replace_attention
from surgery.testing import check_rule
from tests.classes import all_cases
from tests.nightly import nightly
from tests.rewriting.gates import Gate

CASES = {case.name: case for case in all_cases()}
ONE = indices(1)


class GateAfter(Rule):
    """Puts a gate after what matched, which stays."""

    pattern: Pattern = block()

    def replacement(self, site: Site) -> Rewiring:
        width = site.result.shape[-1]
        return Rewiring(
            modules={"gate": New(operator=Gate(), dims=JoinerDims(dim=width))},
            calls=(Call(name="gated", module="gate", arguments={"x": "a"}),),
            results={"a": "gated"},
            keeps=("a",),
        )


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(next(self.parameters()).dtype)  # as diffusers' `self.dtype` does
        for each in self.blocks:
            x = each(x)
        return x


EXAMPLE = {"x": torch.randn(1, 6, 8)}


@pytest.mark.parametrize(
    "rules",
    [
        (GateAfter(layers=ONE), duplicate_blocks(layers=ONE)),
        (GateAfter(layers=ONE), drop_blocks(layers=ONE)),
        (GateAfter(layers=ONE), parallel_pairs(layers=ONE)),
        (GateAfter(pattern=node(module_class="Linear"), layers=ONE), mlp_ratio(5, layers=ONE)),
        (GateAfter(pattern=node(module_class="GELU"), layers=ONE), mlp_ratio(5, layers=ONE)),
    ],
    ids=lambda rules: rules[1].name,
)
def test_what_stays_may_be_edited_by_one_rule_only(rules: tuple[Rule, Rule]) -> None:
    for ordered in permutations(rules):
        assert surgery.plan(Model(), ordered, EXAMPLE).conflicts
        with pytest.raises(RewriteError, match=r"which overlap|both edit"):
            surgery.rewrite(Model(), ordered, EXAMPLE)


def test_a_gate_after_an_mlp_that_is_resized_is_no_conflict() -> None:
    rules = [GateAfter(pattern=node("mlp"), layers=ONE), mlp_ratio(5, layers=ONE)]
    model = Model()
    torch.testing.assert_close(surgery.rewrite(model, rules, EXAMPLE)(**EXAMPLE), model(**EXAMPLE))


class Unused(Block):
    """Computes what it does not use."""

    def forward(self, x: Tensor) -> Tensor:
        self.norm(x + 1)
        return super().forward(x)


def test_a_gate_where_a_forward_computes_what_it_does_not_use() -> None:
    model = Model()
    model.blocks[1] = Unused()
    check_rule(GateAfter(pattern=node("norm")), exact=True, model=model, inputs=EXAMPLE)


@nightly
def test_a_gate_after_the_norms_of_random_models() -> None:
    check_rule(GateAfter(pattern=node("norm")), exact=True)


@pytest.mark.parametrize("rule", [duplicate_blocks(layers=ONE), parallel_pairs(), drop_blocks(layers=ONE)])
def test_a_forward_that_asks_for_all_its_parameters_runs(rule: Rule) -> None:
    student = surgery.rewrite(Model(), [rule], EXAMPLE)
    assert student(**EXAMPLE).shape == EXAMPLE["x"].shape
    again = surgery.rewrite(student, [mlp_ratio(3, layers=ONE)], EXAMPLE)
    assert again(torch.randn(2, 3, 8)).shape == (2, 3, 8)


def test_edits_inside_a_copy_are_undone() -> None:
    case = CASES["FluxTransformer2DModel"]
    teacher = case.model()
    student = surgery.rewrite(teacher, [duplicate_blocks(layers=ONE)], case.example())
    student = surgery.rewrite(student, [replace_attention(SlidingWindow(window=2))], case.example())
    original = surgery.undo(student)
    assert list(original.state_dict()) == list(teacher.state_dict())
    assert torch.equal(original(**case.example())[0], teacher(**case.example())[0])


def test_a_rule_may_be_applied_again() -> None:
    model, rules = Model(), [duplicate_blocks(layers=ONE)]
    student = surgery.rewrite(surgery.rewrite(model, rules, EXAMPLE), rules, EXAMPLE)
    doubled = model.blocks[1](model.blocks[1](model.blocks[1](model.blocks[0](EXAMPLE["x"]))))
    torch.testing.assert_close(student(**EXAMPLE), model.blocks[2](doubled))
    assert torch.equal(surgery.undo(student)(**EXAMPLE), model(**EXAMPLE))


def test_a_copy_and_its_neighbours_become_pairs() -> None:
    student = surgery.rewrite(Model(), [duplicate_blocks(layers=ONE)], EXAMPLE)
    rules = [parallel_pairs()]
    planned = surgery.plan(student, rules, EXAMPLE)
    assert [edit.path for edit in planned.edits] == ["blocks.0 + blocks.1", "blocks_1_copy + blocks.2"]
    assert surgery.rewrite(student, rules, EXAMPLE)(**EXAMPLE).shape == EXAMPLE["x"].shape
