"""What a forward finds around its module: recorded as it is, recorded anew once it changes, or refused by the line."""

from __future__ import annotations

import functools
import random
import re
import secrets
import types
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import surgery
from surgery.errors import TraceError

SCALE = 2.0
SETTINGS = {"scale": [2.0, 3.0]}
CALLS: list[int] = []


class Settings:
    scale = 2.0
    calls = 0


class Slots:
    __slots__ = ("scale", "tensor")

    def __init__(self) -> None:
        self.scale, self.tensor = 2.0, torch.arange(4.0)


@dataclass(slots=True)
class Result:
    x: Tensor


def helper(x: Tensor) -> Tensor:
    return x * SCALE


@functools.lru_cache
def factor(n: int) -> float:
    return n * SCALE


class Does(nn.Module):
    def __init__(self, then: Callable[[Does, Tensor], Any]) -> None:
        super().__init__()
        self.map, self.then = nn.Linear(4, 4), then
        self.queue, self.numbers, self.log = deque([1.0], maxlen=3), iter(range(9)), [0]
        self.slots, self.array, self.space = Slots(), np.ones(3), types.SimpleNamespace(t=torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.then(self, self.map(x))


def traced(then: Callable[[Does, Tensor], Any]) -> tuple[Does, nn.Module]:
    model = Does(then).eval()
    return model, surgery.trace(model, {"x": torch.randn(2, 6, 4)}).module()


def assert_same(model: nn.Module, other: nn.Module) -> None:
    for batch, tokens in ((2, 6), (3, 5)):
        x = torch.randn(batch, tokens, 4)
        assert torch.equal(other(x=x), model(x=x))


READS = {
    "variable": (lambda m, x: x * SCALE, "SCALE"),
    "container": (lambda m, x: x * SETTINGS["scale"][0], "SETTINGS"),
    "class": (lambda m, x: x * Settings.scale, "Settings.scale"),
    "through a function": (lambda m, x: helper(x), "SCALE"),
    "through a cached function": (lambda m, x: x * factor(2), "SCALE"),
    "function": (lambda m, x: helper(x), "helper"),
}
NEW = {"SETTINGS": {"scale": [5.0]}, "helper": lambda x: x - 1}


@pytest.mark.parametrize("name", READS)
def test_what_is_changed_after_tracing_is_seen(name, monkeypatch):
    then, what = READS[name]
    model, graph = traced(then)
    assert_same(model, graph)
    factor.cache_clear()
    monkeypatch.setattr(f"{__name__}.{what}", NEW.get(what, 5.0))
    assert_same(model, graph)


@settings(deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=3))
def test_a_container_counts_by_what_is_in_it(values):
    model, graph = traced(lambda m, x: x * sum(SETTINGS["scale"]))
    before, SETTINGS["scale"] = SETTINGS["scale"], values
    try:
        assert_same(model, graph)
    finally:
        SETTINGS["scale"] = before


def sets_a_global(m: Does, x: Tensor) -> Tensor:
    global SCALE
    SCALE = SCALE + 1
    return x * SCALE


def counts_in_a_class(m: Does, x: Tensor) -> Tensor:
    Settings.calls += 1
    return x * Settings.calls


def counts_in_a_list(m: Does, x: Tensor) -> Tensor:
    CALLS.append(1)
    return x * len(CALLS)


def counts_in_a_default(m: Does, x: Tensor, seen: list[int] = []) -> Tensor:  # noqa: B006
    seen.append(1)
    return x * len(seen)


def counts_in_itself(m: Does, x: Tensor) -> Tensor:
    counts_in_itself.calls = getattr(counts_in_itself, "calls", 0) + 1
    return x * counts_in_itself.calls


def keeps(name: str, value: Callable[[Any, Tensor], Any]) -> Callable[[Does, Tensor], Tensor]:
    """A forward that changes what is in an attribute."""

    def then(m: Does, x: Tensor) -> Tensor:
        value(getattr(m, name), x)
        return x

    return then


def adds_to_an_array(m: Does, x: Tensor) -> Tensor:
    m.array += 1
    return x * float(m.array[0])


REFUSED = {
    "a global": (sets_a_global, "changes the global variable tests.tracing.test_around.SCALE"),
    "a class": (counts_in_a_class, "changes the global variable tests.tracing.test_around.Settings.calls"),
    "a list": (counts_in_a_list, "changes the global variable tests.tracing.test_around.CALLS"),
    "a default": (counts_in_a_default, "changes what is in then"),
    "a function": (counts_in_itself, "changes the global variable tests.tracing.test_around.counts_in_itself"),
    "a deque": (keeps("queue", lambda q, x: q.append(2.0)), "changes what is in queue"),
    "an own list": (keeps("log", lambda q, x: q.append(1)), "changes what is in log"),
    "a tensor in slots": (keeps("slots", lambda s, x: setattr(s, "tensor", x.sum())), "keeps tensors in slots"),
    "a tensor of the same kind": (
        keeps("space", lambda s, x: setattr(s, "t", s.t + x.sum())),
        "keeps tensors in space",
    ),
    "a number in slots": (keeps("slots", lambda s, x: setattr(s, "scale", s.scale + 1)), "counts in slots"),
    "an array": (adds_to_an_array, "counts in array"),
    "an iterator": (lambda m, x: x * next(m.numbers), "reads 'numbers', a range_iterator"),
    "default_rng": (lambda m, x: x * np.random.default_rng().random(), "random numbers from the system"),
    "RandomState": (lambda m, x: x * np.random.RandomState().rand(), "random numbers from the system"),
    "Random": (lambda m, x: x * random.Random().random(), "random numbers from the system"),
    "secrets": (lambda m, x: x * secrets.randbelow(99), "random numbers from the system"),
    "uuid": (lambda m, x: x * (uuid.uuid4().int % 99), "random numbers from the system"),
    "gives a generator": (lambda m, x: (x * i for i in range(2)), "gives a generator"),
    "gives a map": (lambda m, x: map(torch.sin, [x]), "gives a map"),
    "gives slots": (lambda m, x: Result(x), "gives a Result with tensors in it"),
    "gives a set": (lambda m, x: {x}, "gives a set with tensors in it"),
    "gives values": (lambda m, x: {"x": x}.values(), "gives a dict_values with tensors in it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_line(name):
    then, why = REFUSED[name]
    with pytest.raises(TraceError, match=re.escape(why)) as refused:
        traced(then)
    assert __file__ in str(refused.value)


@pytest.mark.parametrize("seeded", [lambda: np.random.default_rng(3).random(), lambda: random.Random(5).random()])
def test_generators_with_a_seed_give_constants(seeded):
    assert_same(*traced(lambda m, x: x * seeded()))


def test_what_is_in_slots_is_read():
    assert_same(*traced(lambda m, x: x * m.slots.tensor * m.slots.scale))


BRANCHES = {
    "gradients": lambda m, x: x * 2 if torch.is_grad_enabled() else x * 3,
    "inference": lambda m, x: x * 2 if torch.is_inference_mode_enabled() else x * 3,
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("first", [nullcontext, torch.no_grad])
def test_a_branch_on_the_mode_is_seen(name, first):
    with first():
        model, graph = traced(BRANCHES[name])
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            assert_same(model, graph)


def test_a_question_whose_answer_is_idle_ties_nothing_down():
    model = Does(lambda m, x: x * 2 if torch.is_grad_enabled() and m.training else x * 3).eval()
    assert surgery.trace(model, {"x": torch.randn(2, 6, 4)}).guards == []
