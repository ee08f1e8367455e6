"""Objects and modules that parts of a model hand to each other, and objects that it returns."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import surgery
from surgery.errors import TraceError
from tests.nightly import examples
from tests.tracing.test_exact import assert_same

DIM = 4


@dataclass(frozen=True)
class Condition:
    """Tensors, a size, a constant, containers and an object; with a method."""

    shift: torch.Tensor
    count: int
    kind: str
    more: list[Any] = field(default_factory=list)

    def added(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.count + self.shift


class Output:
    def __init__(self, sample: torch.Tensor, **rest: Any) -> None:
        self.sample, self.rest = sample, rest


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(DIM))
        self.inner = nn.Linear(DIM, DIM)
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return self.inner(x) * self.table, x.shape[1]


class Block(nn.Module):
    """Runs `steps`, names of its methods, on tokens (B, N, DIM), what its caller hands it, and a module."""

    def __init__(self, steps: tuple[str, ...]) -> None:
        super().__init__()
        self.map, self.steps = nn.Linear(DIM, DIM), steps

    def forward(self, x: torch.Tensor, condition: Condition, rope: Rotary) -> tuple[torch.Tensor, Condition]:
        x = self.map(x)
        for step in self.steps:
            x, condition = getattr(self, step)(x, condition, rope)
        return x, condition

    def reads(self, x, condition, rope):
        return condition.added(x) + condition.more[0]["mean"], condition

    def makes(self, x, condition, rope):
        return x, replace(condition, shift=x.mean(dim=1, keepdim=True), kind=condition.kind + "!")

    def nests(self, x, condition, rope):
        return x, replace(condition, more=[{"mean": x.mean()}, condition.more])

    def branches(self, x, condition, rope):
        return (x if condition.kind.endswith("!") else x + 1), condition

    def rotates(self, x, condition, rope):
        out, tokens = rope(x)
        return x + out / tokens, condition

    def reads_the_module(self, x, condition, rope):
        return (x + rope.table * rope.scale) @ rope.inner.weight, condition

    def calls_below(self, x, condition, rope):
        return rope.inner(x) + x, condition


STEPS = [name for name in vars(Block) if not name.startswith("_") and name != "forward"]


class Net(nn.Module):
    def __init__(self, programs: list[tuple[str, ...]]) -> None:
        super().__init__()
        self.rope = Rotary()
        self.blocks = nn.ModuleList(map(Block, programs))

    def forward(self, x: torch.Tensor) -> Output:
        kind = "train" if self.training else "eval"
        condition = Condition(x.sum(dim=1, keepdim=True), x.shape[1], kind, [{"mean": x.mean()}])
        for block in self.blocks:
            x, condition = block(x, condition, rope=self.rope)
        return Output(x, condition=condition, count=condition.count + 1, nothing=None)


def fields(value: Any) -> Any:
    """An object as plain data."""
    if isinstance(value, Output | Condition):
        return {"class": type(value).__name__} | {name: fields(item) for name, item in vars(value).items()}
    if isinstance(value, list | tuple):
        return [fields(item) for item in value]
    return {key: fields(item) for key, item in value.items()} if isinstance(value, dict) else value


programs = st.lists(st.lists(st.sampled_from(STEPS), max_size=3).map(tuple), min_size=1, max_size=3)
calls = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.booleans()), min_size=1, max_size=3)


@examples(20)
@given(programs, calls)
def test_values_and_gradients(programs, calls):
    model = Net(programs + programs[:1])
    traced = surgery.trace(copy.deepcopy(model), {"x": torch.randn(2, 3, DIM)}).module()
    for batch, tokens, training in calls:
        x, results = torch.randn(batch, tokens, DIM), []
        for each in (model, traced):
            each.train(training).zero_grad()
            result = each(x)
            result.sample.square().sum().backward()
            results.append([fields(result), [p.grad for p in each.parameters()]])
        assert type(result) is Output
        assert_same(*results)


def test_a_changed_attribute_of_a_module_that_is_handed_on():
    model = Net([("reads_the_module",)])
    traced = surgery.trace(model, {"x": torch.randn(2, 3, DIM)}).module()
    x = torch.randn(2, 3, DIM)
    for scale in (2.0, 0.5):
        model.rope.scale = traced.rope.scale = scale
        assert_same(model(x).sample, traced(x).sample)


class Sets(nn.Module):
    def forward(self, x: torch.Tensor, out: Output) -> torch.Tensor:
        out.sample = x * 2
        return x


class GivesToSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sets = Sets()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = Output(x)
        return self.sets(x, out) + out.sample


def test_setting_an_attribute_of_an_object_of_another_module_is_refused_by_line():
    with pytest.raises(
        TraceError, match=r"test_given.py:\d+: a module sets 'sample' of a Output that another one made"
    ):
        surgery.trace(GivesToSets(), {"x": torch.ones(2)})
