"""Blocks as people write them, for which a rule about depth or width would do something else than it says."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import MLP, JoinerDims, LinearAttention
from surgery.rewriting import New, Rewiring, Rule, indices
from surgery.rewriting.pattern import Pattern
from surgery.rewriting.pattern_forms import block
from surgery.rewriting.replacement import Call
from surgery.rules import (
    drop_blocks,
    duplicate_blocks,
    fuse_projections,
    mlp_ratio,
    parallel_pairs,
    replace_attention,
    replace_mlp,
    share_blocks,
)
from surgery.testing import check_rule
from tests.nightly import examples
from tests.rewriting.gates import Gate

DIM = 8


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Whose residual addition is `how`; without one the block gives the branch alone."""

    def __init__(self, how: Callable[[Tensor, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.norm, self.mlp, self.how = nn.LayerNorm(DIM), Mlp(), how

    def forward(self, x: Tensor) -> Any:
        y = self.mlp(self.norm(x))
        return y if self.how is None else self.how(x, y)


class Model(nn.Module):
    """Blocks in turn; what they give is taken to the stream by `then`."""

    def __init__(
        self, make: Callable[[], nn.Module], then: Callable[[Tensor, Tensor], Tensor] | None = None, count: int = 3
    ) -> None:
        super().__init__()
        self.inner, self.then = nn.Linear(DIM, DIM), then
        self.blocks = nn.ModuleList(make() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        for each in self.blocks:
            x = each(x) if self.then is None else self.then(x, each(x))
        return x


def residual() -> Block:
    return Block(lambda x, y: x + y)


def tokens(*sizes: int) -> dict[str, Tensor]:
    return {"x": torch.randn(*sizes or (2, 5), DIM, generator=torch.Generator().manual_seed(0))}


def counted(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return int(counter.get_total_flops())


# -- the stream ----------------------------------------------------------------------------------------------------


IN_PLACE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "an augmented addition": lambda x, y: x.__iadd__(y),
    "a method": lambda x, y: x.add_(y),
    "through a view": lambda x, y: x.view(-1, DIM).add_(y.view(-1, DIM)).view(x.shape),
    "an item": lambda x, y: x.__setitem__(slice(None), x + y) or x,
    "a function that is told to": lambda x, y: F.relu(x, inplace=True) + y,
}


@pytest.mark.parametrize("how", IN_PLACE)
def test_what_a_block_changes_in_place_is_no_input_of_another(how: str) -> None:
    with pytest.raises(MatchError, match=r"blocks\.0 changes its x in place"):
        surgery.plan(Model(lambda: Block(IN_PLACE[how])), [parallel_pairs()], tokens())


class GatedEntry(Rule):
    """A gate on what entered a block, which stays."""

    pattern: Pattern = block()

    def replacement(self, site: Any) -> Rewiring:
        return Rewiring(
            modules={"gate": New(operator=Gate(), dims=JoinerDims(dim=DIM))},
            calls=(Call(name="gated", module="gate", arguments={"x": "a(x)"}),),
            results={"a": "gated"},
            keeps=("a",),
        )


def test_nor_of_a_users_own_call() -> None:
    with pytest.raises(RewriteError, match=r"blocks\.0 stays and changes its x in place, which a\(x\) reads"):
        surgery.plan(Model(lambda: Block(IN_PLACE["a method"])), [GatedEntry()], tokens())


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(DIM, DIM, 3, padding=1, groups=DIM), nn.GroupNorm(1, DIM)
        self.up, self.down = nn.Conv2d(DIM, 2 * DIM, 1), nn.Conv2d(2 * DIM, DIM, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(self.depthwise(x)))))


def test_a_joiner_mixes_no_pixels() -> None:
    model = nn.Sequential(*(Convolutional() for _ in range(2)))
    with pytest.raises(MatchError, match=r"the features of x \(2, 8, 6, 8\) are in axis 1"):
        surgery.plan(model, [parallel_pairs()], {"input": torch.randn(2, DIM, 6, 8)})


AROUND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "by sum": lambda x, y: sum([x, y]),  # type: ignore[arg-type,return-value]
    "minus": lambda x, y: x - y,
    "stacked": lambda x, y: torch.stack([x, y]).sum(0),
    "times": lambda x, y: x * y,
    "one half each": lambda x, y: torch.lerp(x, y, 0.5),
}


@examples(10)
@given(st.sampled_from(sorted(AROUND)), st.sampled_from([drop_blocks, duplicate_blocks]))
def test_a_block_that_is_taken_to_the_stream_in_another_way_stays(how: str, rule: Callable[..., Rule]) -> None:
    with pytest.raises(MatchError, match="has no residual addition, and what it reads is read by"):
        surgery.plan(Model(Block, AROUND[how]), [rule(layers=indices(1))], tokens())


def test_one_that_is_added_outside_is_dropped() -> None:
    model = Model(Block, lambda x, y: torch.add(y, x)).eval()
    student = surgery.rewrite(model, [drop_blocks(layers=indices(1))], tokens())
    model.blocks[1].mlp.down.requires_grad_(False)
    for weight in model.blocks[1].mlp.down.parameters():
        weight.zero_()
    torch.testing.assert_close(student(**tokens()), model(**tokens()))


Two = namedtuple("Two", ["x", "other"])


class Named(Block):
    def forward(self, x: Tensor, other: Tensor) -> Two:
        return Two(x + self.mlp(self.norm(x)) * other.sigmoid(), other)


class OfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Named() for _ in range(4))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        for each in self.blocks:
            x, other = each(x, other)
        return x + other


@pytest.mark.parametrize(
    "rule", [drop_blocks(layers=indices(1)), duplicate_blocks(layers=indices(2)), parallel_pairs()]
)
def test_blocks_that_give_a_named_tuple(rule: Rule) -> None:
    check_rule(rule, model=OfTwo().eval(), inputs={"x": torch.randn(2, 5, DIM), "other": torch.randn(2, 5, DIM)})


# -- weights that stand in several places ---------------------------------------------------------------------------


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
        "blocks.0.mlp.up has forward hooks, which are for a layer of its size"
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
        self.blocks = nn.ModuleList(nn.ModuleList([nn.LayerNorm(DIM), Attention(), Mlp()]) for _ in range(1))
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
