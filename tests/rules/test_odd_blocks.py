"""Blocks as people write them, for which a rule about depth or width would do something else than it says."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.operators import JoinerDims
from surgery.rewriting import New, Rewiring, Rule, indices
from surgery.rewriting.pattern import Pattern
from surgery.rewriting.pattern_forms import block
from surgery.rewriting.replacement import Call
from surgery.rules import (
    drop_blocks,
    duplicate_blocks,
    parallel_pairs,
)
from surgery.testing import check_rule
from tests.nightly import examples
from tests.rewriting.gates import Gate
from tests.rules.odd_blocks import DIM, Block, Model, tokens

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
