"""What models carry besides the weights of their blocks: ties, hooks, grids, counters, and what undo gives back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import surgery
from surgery.errors import RewriteError
from surgery.operators import MLP, LinearAttention
from surgery.rewriting import Rule, indices
from surgery.rules import (
    drop_blocks,
    fuse_projections,
    mlp_ratio,
    parallel_pairs,
    replace_attention,
    replace_mlp,
    share_blocks,
)
from tests.rules.odd_blocks import DIM, Mlp, Model, counted, residual, tokens


def test_a_mean_of_blocks_that_share_parts_with_others_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    def tied() -> Model:
        model = Model(residual).eval()
        model.blocks[2].mlp = model.blocks[0].mlp
        return model

    student = surgery.rewrite(tied(), [share_blocks(2, average=True, layers=indices(0))], tokens())
    loaded = surgery.load(surgery.save(student, tmp_path), base=tied())
    assert torch.equal(loaded(**tokens()), student(**tokens()))
    assert [p.shape for p in loaded.parameters()] == [p.shape for p in student.parameters()]


def test_tied_parameters_are_loaded_tied(tmp_path: Path) -> None:
    def tied() -> Model:
        model = Model(residual).eval()
        model.blocks[1].mlp.up.weight = model.blocks[0].mlp.up.weight
        return model

    student = surgery.rewrite(tied(), [drop_blocks(layers=indices(2))], tokens())
    loaded = surgery.load(surgery.save(student, tmp_path), base=tied())
    assert loaded.blocks[1].mlp.up.weight is loaded.blocks[0].mlp.up.weight
    assert len(list(loaded.parameters())) == len(list(student.parameters()))


def test_an_mlp_in_several_blocks_counts_in_all_and_one_that_is_shared_in_part_is_refused() -> None:
    whole, part = Model(residual).eval(), Model(residual).eval()
    whole.blocks[2].mlp = whole.blocks[0].mlp
    part.blocks[2].mlp.up = part.blocks[0].mlp.up
    for each in (whole, part):  # the blocks differ by their `how`, so each is recorded by itself
        assert torch.equal(surgery.trace(each, tokens()).module()(**tokens(3, 7)), each(**tokens(3, 7)))
    plan = surgery.plan(whole, [mlp_ratio(8)], tokens())
    student = surgery.rewrite(whole, [mlp_ratio(8)], tokens())
    assert (plan.before.flops, plan.after.flops) == (counted(whole, tokens()), counted(student, tokens()))
    with pytest.raises(RewriteError, match=r"only some of its layers are those of blocks\.2\.mlp too"):
        surgery.plan(part, [mlp_ratio(8)], tokens())


# -- what else a model carries --------------------------------------------------------------------------------------


def test_hooks_come_along_or_are_named(tmp_path: Path) -> None:
    def hooked() -> Model:
        model = Model(residual).eval()
        model.blocks[0].mlp.up.register_forward_hook(lambda module, args, out: 2 * out)
        return model

    plan = surgery.plan(hooked(), [mlp_ratio(6)], tokens())
    assert [each.reason for each in plan.skipped] == [
        "blocks.0.mlp.up has forward hooks, which are for a layer of its size; remove them first"
    ]
    student = surgery.rewrite(hooked(), [drop_blocks(layers=indices(1))], tokens())
    loaded = surgery.load(surgery.save(student, tmp_path), base=hooked())
    assert torch.equal(loaded(**tokens()), student(**tokens()))


@pytest.mark.parametrize("sizes", [(2, 3, 5), (2, 2, 3, 4)])
def test_tokens_on_a_grid_are_all_counted(sizes: tuple[int, ...]) -> None:
    model = Model(residual, count=4).eval()
    for rule in (replace_mlp(MLP(ratio=4)), parallel_pairs(), mlp_ratio(6)):
        plan = surgery.plan(model, [rule], tokens(*sizes))
        student = surgery.rewrite(model, [rule], tokens(*sizes))
        assert plan.after.flops == counted(student, tokens(*sizes))


def test_a_student_runs_under_the_flop_counter_of_torch_recorded_or_not(tmp_path: Path) -> None:
    model = Model(residual).eval()
    student = surgery.rewrite(model, [drop_blocks(layers=indices(1))], tokens())
    loaded = surgery.load(surgery.save(student, tmp_path), base=model)
    for each in (student, loaded):
        with FlopCounterMode(display=False) as counter:
            assert torch.equal(each(**tokens()), student(**tokens()))
        assert counter.get_total_flops() > 0


def test_rules_may_come_from_a_generator() -> None:
    rules = [mlp_ratio(6, layers=indices(0)), mlp_ratio(2, layers=indices(1))]
    expected = surgery.plan(Model(residual), rules, tokens())
    assert surgery.plan(Model(residual), (rule for rule in rules), tokens()) == expected  # type: ignore[arg-type]
    with pytest.raises(RewriteError, match="is to be a list of rules"):
        surgery.plan(Model(residual), 3, tokens())  # type: ignore[arg-type]


class Attention(nn.Module):
    """Whose queries are scaled in place, as those of a fused map may not be by autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        q *= 2.0
        q, k, v = (y.unflatten(2, (2, -1)).transpose(1, 2) for y in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Timed(nn.Module):
    """An embedding of the time from a tensor that its forward makes, on no device that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(DIM, DIM)
        self.attentions = nn.ModuleList(Attended() for _ in range(3))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-torch.arange(DIM // 2).float())[None]
        x = x + self.embed(torch.cat([angles.cos(), angles.sin()], -1).to(x.dtype))[:, None]
        for each in self.attentions:
            x = each(x)
        return x


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(DIM), Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.mlp(x)


def test_fused_projections_may_be_changed_in_place() -> None:
    model = Model(Attended).eval()
    student = surgery.rewrite(model, [fuse_projections()], tokens())
    result = student(**tokens())
    torch.testing.assert_close(result, model(**tokens()))
    result.sum().backward()


def test_an_edited_block_in_an_edited_model_is_recorded_anew_whatever_the_model_makes(tmp_path: Path) -> None:
    inputs = {"x": torch.randn(2, 5, DIM), "t": torch.tensor([1.0, 2.0])}
    rules = [drop_blocks(layers=indices(0)), replace_attention(LinearAttention(), layers=indices(1))]
    student = surgery.rewrite(Timed().eval(), rules, inputs)
    loaded = surgery.load(surgery.save(student, tmp_path), base=Timed())
    assert torch.equal(loaded(**inputs), student(**inputs))
    assert student.double()(x=inputs["x"].double(), t=inputs["t"]).dtype == torch.float64


# -- undo -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [drop_blocks(layers=indices(1)), mlp_ratio(2), share_blocks(2, layers=indices(0))])
def test_what_was_replaced_follows_a_cast(rule: Rule) -> None:
    model = Model(residual).eval()
    original = surgery.undo(surgery.rewrite(model, [rule], tokens()).double())
    inputs = {"x": tokens()["x"].double()}
    assert torch.equal(original(**inputs), model.double()(**inputs))


@pytest.mark.parametrize("average", [False, True])
def test_an_edit_inside_what_was_replaced_before_is_undone_too(average: bool) -> None:
    model = Model(Attended).eval()
    shared = surgery.rewrite(model, [share_blocks(2, average=average, layers=indices(0))], tokens())
    student = surgery.rewrite(shared, [replace_attention(LinearAttention())], tokens())
    assert torch.equal(surgery.undo(student)(**tokens()), model(**tokens()))


def test_a_loaded_student_is_cast_and_edited_again(tmp_path: Path) -> None:
    model = Model(residual).eval()
    student = surgery.rewrite(model, [drop_blocks(layers=indices(0))], tokens())
    loaded = surgery.load(surgery.save(student, tmp_path), base=model)
    inputs = {"x": tokens()["x"].double()}
    twice = surgery.rewrite(loaded, [mlp_ratio(6)], tokens()).double()
    thrice = surgery.rewrite(twice, [drop_blocks(layers=indices(0))], inputs)
    assert thrice(**inputs).dtype == torch.float64
    with pytest.raises(RewriteError, match="are not in an artifact; load the base model instead"):
        surgery.undo(thrice)
