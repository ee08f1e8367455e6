"""Objects among the inputs, such as caches of keys and values: what a model reads and stores there is followed."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import surgery
from surgery.errors import TraceError
from tests.nightly import examples
from tests.tracing.exact import assert_exact
from tests.tracing.test_exact import assert_same


class Store:
    def __init__(self) -> None:
        self.key: torch.Tensor | None = None
        self.calls = 0

    def extended(self, key: torch.Tensor) -> torch.Tensor:
        return key if self.key is None else torch.cat([self.key, key], dim=1)


class Attends(nn.Module):
    """Keeps the keys of earlier calls."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, store: Store) -> torch.Tensor:
        keys = store.extended(self.proj(x))
        store.key = keys.detach()
        store.calls += 1
        return (x @ keys.transpose(1, 2)).softmax(-1) @ keys * store.calls


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Attends(), Attends()

    def forward(self, x: torch.Tensor, store: Store) -> torch.Tensor:
        return self.second(self.first(x, store), store)


def filled(batch: int, keys: int) -> Store:
    store = Store()
    store.key = torch.randn(batch, keys, 3) if keys else None
    store.calls = keys
    return store


calls = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))


def call(size: tuple[int, int, int]) -> dict[str, object]:
    batch, tokens, keys = size
    return {"x": torch.randn(batch, tokens, 3), "store": filled(batch, keys)}


@examples(15)
@given(calls, st.lists(calls, min_size=1, max_size=3))
def test_a_cache_is_read_and_filled_as_by_the_model(example, others):
    assert_exact(Twice(), call(example), *map(call, others))


def test_one_cache_over_several_calls():
    model, (mine, theirs) = Twice(), (Store(), Store())
    traced = surgery.trace(model, {"x": torch.randn(1, 2, 3), "store": Store()}).module()
    for tokens in (2, 1, 3):
        x = torch.randn(1, tokens, 3)
        assert_same(model(x, theirs), traced(x, mine))
        assert_same(vars(theirs), vars(mine))


class LateBranch(nn.Module):
    """Changes its cache and a buffer before a branch on what was read tells which recording is the right one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor, flags: torch.Tensor, store: Store) -> torch.Tensor:
        store.calls = store.calls + 1
        self.seen += 1
        x = x + torch.rand_like(x)
        return x * 2 if (flags.cumsum(0) > 1).any() else x - 1


def test_what_a_recording_did_is_taken_back_if_another_one_holds():
    model = LateBranch()
    twin = copy.deepcopy(model)
    traced = surgery.trace(model, {"x": torch.ones(2), "flags": torch.tensor([0, 1]), "store": Store()}).module()
    for number, flags in enumerate([[1, 1], [0, 1], [1, 1], [0, 0]]):
        mine, theirs = Store(), Store()
        results = []
        for each, store in ((traced, mine), (twin, theirs)):
            torch.manual_seed(number)
            results.append((each(torch.ones(2), torch.tensor(flags), store), torch.rand(1)))
        assert_same(results[1], results[0])
        assert (mine.calls, theirs.calls) == (1, 1)
        assert torch.equal(model.seen, twin.seen)


class Copies(nn.Module):
    def forward(self, x: torch.Tensor, store: Store) -> torch.Tensor:
        return x * copy.copy(store).calls


def test_copying_such_an_object_is_refused_by_line():
    with pytest.raises(TraceError, match=r"the model copies a Store that it is given.*declare the module a leaf"):
        surgery.trace(Copies(), {"x": torch.ones(2), "store": Store()})
