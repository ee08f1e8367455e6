"""MLPs that PyTorch's own gate stands in, as a function or a module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from surgery.errors import MatchError
from surgery.rules import mlp_ratio
from tests.rules.odd_blocks import DIM, Block, Model, tokens

GATES = {
    "module": nn.GLU(),
    "function": lambda h: F.glu(h),
    "keyword": lambda h: F.glu(input=h, dim=2),
    "in front": lambda h: F.glu(F.silu(h), -1),
}


class Gated(nn.Module):
    def __init__(self, gate) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(DIM, 6 * DIM), gate, nn.Linear(3 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gate(self.up(x)))


def model(gate) -> Model:
    torch.manual_seed(0)
    found = Model(lambda: Block(lambda x, y: x + y), count=2)
    for block in found.blocks:
        block.mlp = Gated(gate)
    return found.double()


@pytest.mark.parametrize("ratio", [1, 2, 5])
@pytest.mark.parametrize("gate", GATES)
def test_a_gate_and_what_it_gates_come_and_go_together(gate, ratio):
    teacher, call = model(GATES[gate]), {"x": tokens()["x"].double()}
    student = surgery.rewrite(teacher, [mlp_ratio(ratio)], call)
    for before, after in zip(teacher.blocks, student.blocks, strict=True):
        assert after.mlp.up.out_features == 2 * ratio * DIM
        old = before.mlp.up(torch.eye(DIM).double()).chunk(2, -1)
        new = after.mlp.up(torch.eye(DIM).double()).chunk(2, -1)
        pairs = {tuple(column.tolist()) for column in torch.cat(old).T}
        kept = torch.cat(new).T[: min(ratio, 3) * DIM]
        assert {tuple(column.tolist()) for column in kept} <= pairs
    if ratio >= 3:
        torch.testing.assert_close(student(**call), teacher(**call), rtol=0, atol=1e-12)


def test_a_gate_along_the_tokens_is_none_of_neurons():
    class Along(Gated):
        def forward(self, x: Tensor) -> Tensor:
            return self.down(F.glu(self.up(x)[..., : 3 * DIM].repeat(1, 2, 1), 1))

    def block() -> Block:
        found = Block(lambda x, y: x + y)
        found.mlp = Along(None)
        return found

    with pytest.raises(MatchError, match=r"between down and the linear maps before it comes glu, which is not underst"):
        surgery.plan(Model(block), [mlp_ratio(2)], tokens())
