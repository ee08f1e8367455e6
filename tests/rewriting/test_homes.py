"""A module that stands in several blocks is edited once, for all of them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from surgery.errors import RewriteError
from surgery.operators import HyenaX, LinearAttention, SlidingWindow
from surgery.rewriting import every, indices
from surgery.rules import alternate, fuse_projections, mlp_ratio, replace_attention

DIM, HEADS = 16, 2


class Attention(nn.Module):
    """Attention of its own form, so that it is replaced at its core."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (each(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
        return self.out(y.transpose(1, 2).flatten(2)).tanh()


class Block(nn.Module):
    def __init__(self, attn: nn.Module, masked: bool) -> None:
        super().__init__()
        self.norm, self.attn, self.masked = nn.LayerNorm(DIM), attn, masked
        self.norm2, self.up, self.down = nn.LayerNorm(DIM), nn.Linear(DIM, 2 * DIM), nn.Linear(2 * DIM, DIM)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm(x), mask if self.masked else None)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    """Whose blocks have the attentions that `shares` numbers; of those in `masked`, they get the mask."""

    def __init__(self, shares: list[int], masked: list[bool]) -> None:
        super().__init__()
        made = [Attention() for _ in range(max(shares) + 1)]
        self.blocks = nn.ModuleList(Block(made[n], with_mask) for n, with_mask in zip(shares, masked, strict=True))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x


def model(shares: list[int], masked: list[bool] | None = None) -> Model:
    torch.manual_seed(0)
    return Model(shares, masked or [True] * len(shares)).double().eval()


def inputs(length: int = 9, seen: int | None = None) -> dict[str, Tensor]:
    x = torch.randn(2, length, DIM, generator=torch.Generator().manual_seed(length)).double()
    return {"x": x} if seen is None else {"x": x, "mask": (torch.arange(length) < seen).expand(2, -1)}


@pytest.mark.parametrize("shares", [[0, 0], [0, 1, 0], [0, 1, 1, 0], [0, 0, 0]])
@pytest.mark.parametrize("layers", [None, indices(0), every(1)])
def test_there_is_one_edit_for_a_module_in_several_blocks(shares, layers, tmp_path):
    teacher, call = model(shares), inputs()
    rules = [replace_attention(HyenaX(kernel=3), layers=layers)]
    plan = surgery.plan(teacher, rules, call)
    student = surgery.rewrite(teacher, rules, call)
    edited = {0} if layers == indices(0) else set(shares)
    assert len(plan.edits) == len(edited)
    assert plan.after.params == sum(p.numel() for p in student.parameters())
    assert plan.after.flops == surgery.trace(student, call).flops
    cores = [type(block.attn).__name__ == "Attention" and hasattr(block.attn, "scaled_dot_product_attention_core")
             for block in student.blocks]  # fmt: skip
    assert cores == [share in edited for share in shares]
    assert surgery.undo(student)(**call).equal(teacher(**call))
    surgery.save(student, tmp_path / "student")
    loaded = surgery.load(tmp_path / "student", base=copy.deepcopy(teacher))
    for each in (call, inputs(12), inputs(7, seen=5)):
        assert loaded(**each).equal(student(**each))


@pytest.mark.parametrize("masked", [[True, True], [True, False], [False, True]])
def test_each_block_may_call_it_in_its_own_way(masked):
    teacher = model([0, 0], masked)
    student = surgery.rewrite(teacher, [replace_attention(SlidingWindow(window=50))], inputs(9, seen=6))
    for call in (inputs(9, seen=6), inputs(12), inputs(7, seen=5)):
        torch.testing.assert_close(student(**call), teacher(**call), rtol=0, atol=1e-12)


def test_two_edits_of_one_module_conflict():
    teacher, call = model([0, 0]), inputs()
    rules = alternate(HyenaX(kernel=3), LinearAttention())
    (conflict,) = surgery.plan(teacher, rules, call).conflicts
    assert conflict.kind == "overlap"
    with pytest.raises(RewriteError, match=r"ReplaceAttention and ReplaceAttention both edit blocks\.0\.attn"):
        surgery.rewrite(teacher, rules, call)


def test_a_block_that_is_left_out_says_that_it_is_changed_all_the_same():
    (skipped,) = surgery.plan(model([0, 0]), [replace_attention(HyenaX(kernel=3), layers=indices(1))], inputs()).skipped
    assert skipped.path == "blocks.0.attn"
    assert skipped.reason == "not selected by indices(1), but is edited as it is blocks.1.attn"


def test_one_module_cannot_be_taken_apart():
    rule = replace_attention(HyenaX(kernel=3)).model_copy(update={"shared": "apart"})
    with pytest.raises(RewriteError, match=r"stands in blocks\.0\.attn and blocks\.1\.attn, which are one module"):
        surgery.plan(model([0, 0]), [rule], inputs())


def test_what_is_fused_in_one_block_is_fused_in_the_other():
    teacher, call = model([0, 0, 1]), inputs()
    rules = [fuse_projections(3), mlp_ratio(3)]
    student = surgery.rewrite(teacher, rules, call)
    assert surgery.plan(teacher, rules, call).after.params == sum(p.numel() for p in student.parameters())
    torch.testing.assert_close(student(**call), teacher(**call), rtol=0, atol=1e-12)
    assert student.blocks[0].attn is student.blocks[1].attn
