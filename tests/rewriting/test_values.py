"""Students of models that read values run when loaded, at other sizes and after a save, without the replaced weights."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import GuardError
from surgery.rewriting import indices
from surgery.rules import drop_blocks, duplicate_blocks
from tests.classes import all_cases
from tests.classes.check import forward, randomised, same_bits
from tests.nightly import thinned

READERS = {
    "AnyFlowFARTransformer3DModel-rollout",
    "BriaFibo2Transformer2DModel-edit",
    "HiDreamImageTransformer2DModel",
    "HunyuanImageTransformer2DModel-glyphs",
    "HunyuanVideoFramepackTransformer3DModel",
    "MochiTransformer3DModel",
    "RFD4ProteinaTransformer-chiral",
}
CASES = [case for case in all_cases() if case.name in READERS]
RULES = {"drop": drop_blocks(layers=indices(1)), "copy": duplicate_blocks(layers=indices(0))}
NAMES = [(case.name, list(RULES)[number % 2]) for number, case in enumerate(CASES)]
"""One rule for each class, in turn."""


@pytest.mark.parametrize(("name", "rule"), thinned(NAMES, 2))
def test_saved_and_loaded_students_run_at_every_size(name, rule, tmp_path):
    case, rule = next(case for case in CASES if case.name == name), RULES[rule]
    student = surgery.rewrite(randomised(case.model()), [rule], case.example())
    before = forward(student, case, case.sizes[0])
    loaded = surgery.load(surgery.save(student, tmp_path))
    assert same_bits(before, forward(student, case, case.sizes[0]))
    for sizes in case.sizes[:3]:
        assert same_bits(forward(student, case, sizes), forward(loaded, case, sizes)), f"differs at {sizes}"


def test_saving_changes_nothing(tmp_path):
    case = next(case for case in CASES if case.name == "MochiTransformer3DModel")
    student = surgery.rewrite(case.model(), [drop_blocks(layers=indices(1))], case.example())
    config = copy.deepcopy(dict(student.config))
    surgery.save(student, tmp_path)
    assert dict(student.config) == config


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.relu(self.up(x)))


class Reading(nn.Module):
    """Reads a mask that is given or, after its blocks, one that is computed from them."""

    def __init__(self, given: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.given = given

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        longest = int(mask.sum(1).max().item())
        for block in self.blocks:
            x = block(x)
        kept = mask if self.given else mask * (x.argmax(-1) >= 0)
        out = torch.zeros(x.shape, device=x.device)
        out[:, :] = x
        return out[kept][:longest] if self.given else out[:, : int(kept.sum().item())]


def call(batch: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"x": torch.randn(batch, 5, 4), "mask": torch.arange(5)[None] < torch.arange(1, batch + 1)[:, None]}


def without_replaced_weights(given: bool) -> nn.Module:
    """A student without any recording, as one is that was loaded."""
    student = surgery.rewrite(Reading(given), [drop_blocks(layers=indices(1))], call(2))
    student._surgery_edit.scope.recordings.clear()  # type: ignore[union-attr, operator]
    return student


def test_a_mask_of_the_inputs_selects_from_values_that_are_not_known():
    student = without_replaced_weights(given=True)
    for batch in (2, 3):
        x, mask = call(batch).values()
        expected = student.blocks[2](student.blocks[0](x))[mask][:batch]
        assert torch.equal(student(x=x, mask=mask), expected)


def test_values_that_rest_on_replaced_weights_cannot_be_read():
    with pytest.raises(GuardError, match=r"reads the values of a tensor \(Tensor.item\) without having them") as caught:
        without_replaced_weights(given=False)(**call(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "MochiTransformer3DModel"])
def test_a_student_that_lost_a_block_is_cast(name: str, tmp_path: Path) -> None:
    case = next(case for case in all_cases() if case.name == name)
    student = surgery.rewrite(case.model(), [drop_blocks(layers=indices(1))], case.example())
    surgery.save(student, tmp_path / "student")
    inputs = {
        key: value.bfloat16() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in case.example().items()
    }
    for each in (student, surgery.load(tmp_path / "student")):
        assert each.to(torch.bfloat16)(**inputs)[0].dtype == torch.bfloat16
