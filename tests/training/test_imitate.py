"""The blocks whose outputs a student imitates, wherever the model keeps them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.rewriting import indices
from surgery.rules import drop_blocks
from surgery.training.imitate import blocks_to_imitate, imitation_loss

WIDTH = 4
INPUTS = {"x": torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Stack(nn.Module):
    """Blocks, and a list that holds none."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.heads = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.heads[1](self.heads[0](x))


class Nested(nn.Module):
    """A model that holds its blocks one module deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Stack()

    def forward(self, x: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (self.inner(x),)


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return Nested().requires_grad_(True)


def test_blocks_of_a_nested_model_are_found(teacher: nn.Module) -> None:
    assert blocks_to_imitate(teacher, teacher, INPUTS) == tuple(f"inner.blocks.{n}" for n in range(3))


def test_each_block_of_a_nested_model_counts(teacher: nn.Module) -> None:
    student = copy.deepcopy(teacher)
    last = student.inner.blocks[2].down.weight
    last.data += 1.0
    blocks = blocks_to_imitate(teacher, student, INPUTS)
    with_blocks, alone = (imitation_loss(teacher, student, INPUTS, paths) for paths in (blocks, ()))
    assert with_blocks > alone > 0
    third = imitation_loss(teacher, student, INPUTS, blocks[2:]) - alone
    torch.testing.assert_close(with_blocks - alone, third / 3)  # two of the three are still exact


def test_blocks_that_were_taken_out_are_not_imitated(teacher: nn.Module) -> None:
    student = surgery.rewrite(teacher, [drop_blocks(layers=indices(1))], INPUTS)
    blocks = blocks_to_imitate(teacher, student, INPUTS)
    assert blocks == ("inner.blocks.0", "inner.blocks.2")
    assert imitation_loss(teacher, student, INPUTS, blocks).isfinite()


def test_checkpointing_an_edited_module_recomputes_its_blocks_and_nothing_else(teacher: nn.Module) -> None:
    student: Any = surgery.rewrite(teacher, [drop_blocks(layers=indices(1))], INPUTS)
    student.inner.gradient_checkpointing = True
    calls: list[str] = []
    for path, module in student.inner.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: calls.append(path))
    student(**INPUTS)[0].sum().backward()
    counts = {path: calls.count(path) for path in ("blocks.0", "blocks.2", "heads.0", "heads.1")}
    assert counts == {"blocks.0": 2, "blocks.2": 2, "heads.0": 1, "heads.1": 1}
