"""Counts of a plan where tensors stand in several places, or are no plain parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.errors import MatchError
from surgery.operators import SlidingWindow
from surgery.rewriting import Rule, indices
from surgery.rules import drop_blocks, duplicate_blocks, mlp_ratio, parallel_pairs, replace_attention, share_blocks
from tests.classes import all_cases

FLUX = next(case for case in all_cases() if case.name == "FluxTransformer2DModel")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
        self.table = nn.Parameter(torch.zeros(4, dtype=torch.int16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x)))) * self.scale[0]


class Model(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        if tied:
            self.blocks[2].up.weight = self.blocks[0].up.weight

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def held(model: nn.Module) -> tuple[int, int]:
    tensors = (*model.parameters(), *model.buffers())
    return sum(p.numel() for p in model.parameters()), sum(t.numel() * t.itemsize for t in tensors)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "rules",
    [
        [drop_blocks(layers=indices(0))],
        [drop_blocks(layers=indices(0, 2))],
        [duplicate_blocks(layers=indices(0, 1))],
        [mlp_ratio(3)],
        [mlp_ratio(3, layers=indices(2))],
        [parallel_pairs()],
        [share_blocks(2)],
        [share_blocks(4, average=True)],
        [drop_blocks(layers=indices(0)), mlp_ratio(1, layers=indices(2))],
    ],
    ids=lambda rules: "+".join(rule.name for rule in rules),
)
def test_a_plan_counts_what_the_student_holds(tied: bool, rules: list[Rule]) -> None:
    model, inputs = Model(tied), {"x": torch.randn(1, 4, 16)}
    total = surgery.plan(model, rules, inputs).total
    assert (total.params.before, total.memory.before) == held(model)
    assert (total.params.after, total.memory.after) == held(surgery.rewrite(model, rules, inputs))


def test_blocks_with_other_operators_share_no_weights() -> None:
    inputs: dict[str, Any] = FLUX.example()
    student = surgery.rewrite(FLUX.model(), [replace_attention(SlidingWindow(window=2), layers=indices(1))], inputs)
    with pytest.raises(MatchError, match=r"transformer_blocks\.1 has other operators than transformer_blocks\.0"):
        surgery.plan(student, [share_blocks(2, layers=indices(0))], inputs)
