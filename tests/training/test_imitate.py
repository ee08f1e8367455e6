"""The blocks whose outputs a student imitates, wherever the model keeps them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.errors import ConfigError, RecipeError
from surgery.rewriting import indices
from surgery.rules import drop_blocks, share_blocks
from surgery.training.imitate import blocks_to_imitate
from surgery.training.objective import NAMED, Objective, Target

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

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.heads = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.heads[1](self.heads[0](x))


class Nested(nn.Module):
    """A model that holds its blocks one module deeper."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.inner = Stack(blocks)

    def forward(self, x: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (self.inner(x),)


@dataclass
class Batch:
    """One batch of one forward, of which a model should predict zeros."""

    inputs: dict[str, Any]
    share: float = 1.0

    def training(self, step: int) -> tuple[Batch, ...]:
        return (self,)

    def loss(self, output: Tensor) -> Tensor:
        return output.square().mean()


def loss(teacher: nn.Module, student: nn.Module, target: Any) -> Tensor:
    target, batch = NAMED[target] if isinstance(target, str) else target, Batch(INPUTS)
    objective = Objective(target, teacher, student, student, target.imitated(teacher, student, batch), batch)
    found = objective.loss(batch).detach()
    objective.close()
    return found


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return Nested().requires_grad_(True)


def test_blocks_of_a_nested_model_are_found(teacher: nn.Module) -> None:
    assert tuple(blocks_to_imitate(teacher, teacher, INPUTS)) == tuple(f"inner.blocks.{n}" for n in range(3))


def test_each_block_of_a_nested_model_counts(teacher: nn.Module) -> None:
    student = copy.deepcopy(teacher)
    last = student.inner.blocks[2].down.weight
    last.data += 1.0
    with torch.no_grad():
        right, wrong = (model.inner.blocks[1](model.inner.blocks[0](INPUTS["x"])) for model in (teacher, student))
        error = F.mse_loss(student.inner.blocks[2](wrong), expected := teacher.inner.blocks[2](right)) / expected.var()
        alone = F.mse_loss(student(**INPUTS)[0], expected := teacher(**INPUTS)[0]) / expected.var()
    torch.testing.assert_close(loss(teacher, student, "teacher"), alone + error / 3)  # two of the three are still exact


@given(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2))
def test_a_target_is_the_sum_of_its_parts(data: float, prediction: float, blocks: float) -> None:
    torch.manual_seed(0)
    teacher, student = Nested(), Nested()
    if not (data or prediction or blocks):
        with pytest.raises(ConfigError, match="all weights are 0"):
            Target(data=data, teacher=prediction, blocks=blocks)
        return
    zero = {"data": 0.0, "teacher": 0.0, "blocks": 0.0}
    parts = [loss(teacher, student, Target(**{**zero, name: 1.0})) for name in zero]
    whole = loss(teacher, student, Target(data=data, teacher=prediction, blocks=blocks))
    torch.testing.assert_close(whole, data * parts[0] + prediction * parts[1] + blocks * parts[2])
    assert loss(teacher, student, "data") == parts[0]
    torch.testing.assert_close(loss(teacher, student, "teacher"), parts[1] + parts[2])


def test_both_models_are_left_alone(teacher: nn.Module) -> None:
    student = copy.deepcopy(teacher)
    loss(teacher, student, "teacher")
    assert not any(module._forward_hooks for model in (teacher, student) for module in model.modules())


def test_blocks_that_were_taken_out_are_not_imitated(teacher: nn.Module) -> None:
    student = surgery.rewrite(teacher, [drop_blocks(layers=indices(1))], INPUTS)
    blocks = blocks_to_imitate(teacher, student, INPUTS)
    assert tuple(blocks) == ("inner.blocks.0", "inner.blocks.2")
    assert loss(teacher, student, "teacher").isfinite()


def run_through(model: nn.Module) -> list[Tensor]:
    """What each call of a block gives."""
    outputs = [INPUTS["x"]]
    for block in model.inner.blocks:
        outputs.append(block(outputs[-1]))
    return outputs[1:]


def blocks_apart(teacher: nn.Module, student: nn.Module) -> Tensor:
    """The loss of the blocks, call by call."""
    with torch.no_grad():
        pairs = zip(run_through(student), run_through(teacher), strict=True)
        return torch.stack([F.mse_loss(actual, expected) / expected.var() for actual, expected in pairs]).mean()


@pytest.mark.parametrize("size", [2, 4])
def test_a_shared_block_is_compared_call_by_call(size: int) -> None:
    torch.manual_seed(0)
    teacher = Nested(4).requires_grad_(True)
    student = surgery.rewrite(teacher, [share_blocks(size)], INPUTS)
    assert student.inner.blocks[1] is student.inner.blocks[0]
    found = loss(teacher, student, Target(data=0, teacher=0, blocks=1))
    torch.testing.assert_close(found, blocks_apart(teacher, student))
    for shared in range(1, size):
        for block in range(0, 4, size):
            weights = teacher.inner.blocks[block].state_dict()
            teacher.inner.blocks[block + shared].load_state_dict(weights)
    assert loss(teacher, student, "teacher") == 0


def test_a_teacher_may_share_blocks_itself() -> None:
    torch.manual_seed(0)
    teacher = Nested(4).requires_grad_(True)
    teacher.inner.blocks[2] = teacher.inner.blocks[0]
    student = copy.deepcopy(teacher)
    assert loss(teacher, student, "teacher") == 0
    student.inner.blocks[0].down.weight.data += 1.0
    found = loss(teacher, student, Target(data=0, teacher=0, blocks=1))
    torch.testing.assert_close(found, blocks_apart(teacher, student))
    student.inner.blocks[3] = student.inner.blocks[1]
    found = loss(teacher, student, Target(data=0, teacher=0, blocks=1))
    torch.testing.assert_close(found, blocks_apart(teacher, student))


def test_calls_of_which_it_cannot_be_told_whose_they_are_are_left_out() -> None:
    torch.manual_seed(0)
    teacher = Nested(4).requires_grad_(True)
    teacher.inner.blocks[2] = teacher.inner.blocks[0]
    student = copy.deepcopy(teacher)
    student.inner.blocks[2] = copy.deepcopy(student.inner.blocks[0])
    student.inner.blocks[2].down.weight.data += 1.0
    with torch.no_grad():
        taught, learnt = run_through(teacher), run_through(student)
        errors = [F.mse_loss(learnt[n], taught[n]) / taught[n].var() for n in (1, 3)]
    found = loss(teacher, student, Target(data=0, teacher=0, blocks=1))
    torch.testing.assert_close(found, torch.stack(errors).mean())


def test_a_target_of_which_no_part_is_left_is_refused() -> None:
    torch.manual_seed(0)
    teacher = Nested(2).requires_grad_(True)
    teacher.inner.blocks[1] = teacher.inner.blocks[0]
    student = copy.deepcopy(teacher)
    student.inner.blocks[1] = copy.deepcopy(student.inner.blocks[0])
    with pytest.raises(RecipeError, match=r"finetune\.target: no block of the student can be compared"):
        loss(teacher, student, Target(data=0, teacher=0, blocks=1))


def test_a_shared_block_that_was_taken_out_is_imitated_nowhere() -> None:
    torch.manual_seed(0)
    teacher = Nested(4).requires_grad_(True)
    shared = surgery.rewrite(teacher, [share_blocks()], INPUTS)
    student = surgery.rewrite(shared, [drop_blocks(layers=indices(1))], INPUTS)
    assert tuple(blocks_to_imitate(teacher, student, INPUTS)) == ("inner.blocks.0", "inner.blocks.1")


def test_checkpointing_an_edited_module_recomputes_its_blocks_and_nothing_else(teacher: nn.Module) -> None:
    student: Any = surgery.rewrite(teacher, [drop_blocks(layers=indices(1))], INPUTS)
    student.inner.gradient_checkpointing = True
    calls: list[str] = []
    for path, module in student.inner.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: calls.append(path))
    student(**INPUTS)[0].sum().backward()
    counts = {path: calls.count(path) for path in ("blocks.0", "blocks.2", "heads.0", "heads.1")}
    assert counts == {"blocks.0": 2, "blocks.2": 2, "heads.0": 1, "heads.1": 1}
