"""Parallel pairs, and blocks that are dropped, duplicated or shared."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import surgery
from surgery.errors import GuardError, MatchError, RewriteError
from surgery.operators import SumDeltas, ZeroJoin
from surgery.rewriting import indices
from surgery.rules import drop_blocks, duplicate_blocks, parallel_pairs, replace_attention, share_blocks
from surgery.testing import check_rule
from tests.compat import models
from tests.rewriting.operators import Scale
from tests.rules.students import FAMILIES, check_student, graph, output

RULES = {
    "pairs": parallel_pairs(),
    "drop": drop_blocks(layers=indices(1)),
    "duplicate": duplicate_blocks(layers=indices(1)),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rule", RULES)
def test_students(name, rule, tmp_path):
    check_student(name, [RULES[rule]], tmp_path)


@pytest.mark.parametrize("name", ["dit", "wan"])
def test_shared_blocks_are_one_module_in_every_copy(name, tmp_path):
    student = check_student(name, [share_blocks(2, layers=indices(0, 2))], tmp_path)
    for each in (student, copy.deepcopy(student), surgery.load(tmp_path)):
        blocks = next(child for child in each.children() if isinstance(child, nn.ModuleList))
        assert blocks[0] is blocks[1]
        assert blocks[2] is blocks[3]
        assert blocks[0] is not blocks[2]


class Plus(nn.Module):
    """A block whose effect is easy to tell: x + w x."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)
        nn.init.constant_(self.linear.weight, 0.0)
        with torch.no_grad():
            self.linear.weight.diagonal().fill_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(nn.functional.relu(self.linear(x)))


class Plain(nn.Module):
    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(map(Plus, weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


X = torch.ones(2, 3, 4)


def rewritten(rule, *weights: float) -> torch.Tensor:
    return surgery.rewrite(Plain(*weights), [rule], {"x": X})(X)


def test_what_each_rule_computes():
    one, two, three = (1 + w * w for w in (1.0, 2.0, 3.0))
    assert torch.equal(rewritten(parallel_pairs(SumDeltas()), 1.0, 2.0), X * (one + two - 1))
    torch.testing.assert_close(rewritten(parallel_pairs(), 1.0, 2.0), X * (one + two) / 2)
    assert torch.equal(rewritten(parallel_pairs(ZeroJoin()), 1.0, 2.0), X * one)
    assert torch.equal(rewritten(parallel_pairs(SumDeltas()), 1.0, 2.0, 3.0), X * (one + two - 1) * three)
    assert torch.equal(rewritten(drop_blocks(layers=indices(1)), 1.0, 2.0, 3.0), X * one * three)
    assert torch.equal(rewritten(duplicate_blocks(layers=indices(0)), 1.0, 2.0), X * one * one * two)
    assert torch.equal(rewritten(share_blocks(2), 1.0, 2.0), X * one * one)
    assert torch.equal(rewritten(share_blocks(2, average=True), 1.0, 3.0), X * two * two)


CALLS = {
    "plainly": lambda block, x: block(x),
    "reentrant": lambda block, x: checkpoint(block, x, use_reentrant=True),
    "not reentrant": lambda block, x: checkpoint(block, x, use_reentrant=False),
    "where gradients are asked for": lambda block, x: block(x) if x.requires_grad else block(x + 0),
}


class Called(Plain):
    """Calls its blocks in one of CALLS."""

    def __init__(self, way: str) -> None:
        super().__init__(1.0, 2.0, 3.0, 4.0)
        self.way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = CALLS[self.way](block, x)
        return x


@pytest.mark.parametrize("way", CALLS)
@pytest.mark.parametrize("rule", RULES)
def test_however_blocks_are_called(way, rule):
    given, plain = X.clone().requires_grad_(), surgery.rewrite(Called("plainly"), [RULES[rule]], {"x": X})
    student = surgery.rewrite(Called(way), [RULES[rule]], {"x": given})
    again = pickle.loads(pickle.dumps(student))
    for x in (given, given.detach(), torch.ones(3, 1, 4)):
        assert torch.equal(student(x), plain(x))
        assert torch.equal(again(x), plain(x))
        again = pickle.loads(pickle.dumps(again))
    student(given).sum().backward()
    assert all(p.grad is not None for p in student.parameters())


class Packed(nn.Module):
    """A block of two streams that takes all of its arguments together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Inner(), Inner()

    def forward(self, gain: float, *streams: torch.Tensor, **more: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = (*streams, *more.values())
        return x + gain * self.one(y).mean(1, keepdim=True), y + self.two(x).mean(1, keepdim=True)


class HoldsPacked(nn.Module):
    def __init__(self, by_name: bool) -> None:
        super().__init__()
        self.blocks, self.by_name = nn.ModuleList(Packed() for _ in range(4)), by_name

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x, y = block(2.0, x, other=y) if self.by_name else block(2.0, x, y)
        return torch.cat([x, y], 1)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_streams_among_arguments_that_are_taken_together(rule, by_name):
    model, inputs = HoldsPacked(by_name), {"x": X, "y": torch.ones(2, 2, 4)}
    check_rule(RULES[rule], model=model, inputs=inputs)
    blocks = list(model.blocks)
    if rule != "pairs":
        student = surgery.rewrite(model, [RULES[rule]], inputs)
        model.blocks = nn.ModuleList(blocks[:1] + blocks[2:] if rule == "drop" else blocks[:2] + blocks[1:])
        torch.testing.assert_close(student(**inputs), model(**inputs))


def test_a_copy_learns_by_itself():
    student = surgery.rewrite(Plain(1.0, 2.0), [duplicate_blocks(layers=indices(0))], {"x": X})
    new, old = student.blocks_0_copy.linear.weight, student.blocks[0].linear.weight
    assert torch.equal(new, old)
    assert new.data_ptr() != old.data_ptr()


def test_a_removed_block_has_no_weights_and_says_so_when_called():
    student = surgery.rewrite(Plain(1.0, 2.0, 3.0), [drop_blocks(layers=indices(1))], {"x": X})
    assert list(student.state_dict()) == ["blocks.0.linear.weight", "blocks.2.linear.weight"]
    with pytest.raises(RewriteError, match=r"blocks\.1: was taken out of this model"):
        student.blocks[1](X)


def test_other_ways_through_are_recorded_from_the_model_as_it_was():
    student = surgery.rewrite(graph("dit"), [parallel_pairs()])
    sample = output(student, "dit")
    assert torch.equal(student(**models.inputs("dit"), return_dict=False)[0], sample)
    larger = {k: v.repeat(2, *[1] * (v.dim() - 1)) for k, v in models.inputs("dit").items()}
    torch.testing.assert_close(student(**larger).sample[:2], sample)
    assert torch.equal(student.bfloat16().float()(**models.inputs("dit")).sample.isfinite().all(), torch.tensor(True))
    with pytest.raises(GuardError, match="hidden_states"):
        student(**models.inputs("dit") | {"hidden_states": torch.zeros(2, 5, 4, 4)})


def test_checkpointing_recomputes_the_blocks():
    student = surgery.rewrite(graph("dit"), [parallel_pairs()]).requires_grad_(True)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            student.enable_gradient_checkpointing()
        calls = []
        hook = student.transformer_blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        student.zero_grad()
        student(**models.inputs("dit")).sample.square().mean().backward()
        hook.remove()
        assert len(calls) == 1 + checkpointing
        gradients.append([p.grad for p in student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_rewriting_a_student_again():
    once = surgery.rewrite(graph("wan"), [parallel_pairs()])
    again = surgery.rewrite(once, [drop_blocks(layers=indices(3))], models.inputs("wan"))
    assert output(again, "wan").shape == output(once, "wan").shape
    assert not torch.equal(output(again, "wan"), output(once, "wan"))
    assert torch.equal(output(surgery.undo(again), "wan"), output(graph("wan").model, "wan"))


def test_where_the_rules_do_not_apply():
    with pytest.raises(MatchError, match=r"transformer_blocks\.3 has other streams than"):
        surgery.plan(graph("sd3"), [parallel_pairs(layers=indices(2))])
    skipped = surgery.plan(graph("dit"), [parallel_pairs()]).skipped
    assert [s.reason for s in skipped] == ["overlaps transformer_blocks.0 + transformer_blocks.1, which comes first"]


def test_the_order_of_a_copy_and_a_change_matters():
    rules = [duplicate_blocks(layers=indices(1)), replace_attention(Scale(), layers=indices(1))]
    planned = surgery.plan(graph("dit"), rules)
    assert [conflict.kind for conflict in planned.conflicts] == ["order"]
    with pytest.raises(RewriteError, match="so their order matters; apply them one after the other"):
        surgery.rewrite(graph("dit"), rules)
    surgery.rewrite(graph("dit"), [rules[0], replace_attention(Scale(), layers=indices(2))])


OUTSIDE = {
    "sum": lambda x, y, m: x + y,
    "sum the other way": lambda x, y, m: y + x,
    "in place": lambda x, y, m: y.add_(x),
    "scaled branch": lambda x, y, m: x + 0.5 * y,
    "scaled": lambda x, y, m: 0.9 * x + m.weight * y,
    "read twice": lambda x, y, m: x + y * y.sigmoid(),
    "divided, normed": lambda x, y, m: x / 2 + nn.functional.layer_norm(y, y.shape[-1:]),
}
ALONE = {"scaled": lambda x, m: 0.9 * x, "divided, normed": lambda x, m: x / 2}


class Inner(nn.Module):
    """A block without a residual addition of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


class Outer(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.dropped = way, None
        self.blocks, self.weight = nn.ModuleList(Inner() for _ in range(3)), nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, block in enumerate(self.blocks):
            if number == self.dropped:
                x = ALONE.get(self.way, lambda x, m: x)(x, self)
            else:
                x = OUTSIDE[self.way](x, block(x), self)
        return x


@pytest.mark.parametrize("way", OUTSIDE)
def test_a_residual_outside_of_a_block_goes_with_it(way):
    model, inputs = Outer(way).eval(), {"x": torch.randn(2, 5, 4)}
    student = surgery.rewrite(model, [drop_blocks(layers=indices(1))], inputs)
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    model.dropped = 1
    torch.testing.assert_close(student(**inputs), model(**inputs))


def test_a_copy_of_a_block_whose_residual_is_outside_is_refused():
    with pytest.raises(MatchError, match="is added to what it reads outside of it"):
        surgery.plan(Outer("sum"), [duplicate_blocks(layers=indices(1))], {"x": torch.randn(2, 5, 4)})


class Conditioned(nn.Module):
    """A block that hands on tokens and a condition vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map, self.condition, self.change = nn.Linear(8, 8), nn.Linear(width, 8), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c = c + self.change(c)
        return x + self.map(x * (1 + self.condition(c)[:, None])), c


class TwoStreams(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Conditioned(width) for _ in range(4))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for each in self.blocks:
            x, c = each(x, c)
        return x, c


@pytest.mark.parametrize("width", [20, 12])
def test_a_stream_of_vectors_as_wide_as_there_are_tokens_is_none_of_tokens(width):
    """With 20 tokens, 20 features of a condition look like a number for each token."""
    model, inputs = TwoStreams(width).eval(), {"x": torch.randn(2, 20, 8), "c": torch.randn(2, width)}
    student = surgery.rewrite(model, [parallel_pairs(SumDeltas())], inputs)
    x, c = student(x=torch.randn(3, 7, 8), c=torch.randn(3, width))
    assert x.shape == (3, 7, 8)
    assert c.shape == (3, width)
