"""Things around the mathematics: autocast, caches by size, attributes, functions that FlexAttention is given."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import surgery
from surgery.errors import GuardError, TraceError
from tests.tracing.exact import assert_exact
from tests.tracing.test_exact import assert_same


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            y = self.low(x)
            with torch.autocast(x.device.type, enabled=False):
                y = self.high(y.float())
            return y @ y.transpose(-1, -2)


def test_autocast_inside_the_model():
    calls = [{"x": torch.randn(n, 4)} for n in (3, 1, 5)]
    traced = assert_exact(Mixed(), *calls)
    assert traced(**calls[0]).dtype == torch.bfloat16


class Half(nn.Module):
    """Depends on a size inside its region, and fails there on a single token."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = x @ x.T
            if y.shape[0] % 2:
                y = y + 1
            return y.unflatten(0, (-1, 2)) if len(x) == 1 else y


def test_no_region_stays_open_where_a_graph_ends_early():
    model = Half()
    traced = surgery.trace(model, {"x": torch.randn(2, 4)}).module()
    for tokens in (3, 2, 5):
        x = torch.randn(tokens, 4)
        assert_same(model(x), traced(x))
        assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(GuardError):
        traced(torch.randn(1, 4))
    assert not torch.is_autocast_enabled("cpu")
    assert torch.autocast_increment_nesting() == 1
    assert torch.autocast_decrement_nesting() == 0


class Casts(nn.Module):
    """Takes another way, and casts to another dtype, by what autocast has made of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return (x.to(y.dtype) + y) * (2 if y.dtype == torch.bfloat16 else 3)


@pytest.mark.parametrize("traced_under_it", [False, True])
def test_autocast_around_the_model(traced_under_it):
    model, x = nn.Sequential(Casts(), Mixed()), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=traced_under_it):
        traced = surgery.trace(model, {"input": x}).module()
    for dtype in (None, torch.bfloat16, torch.float16, None):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            assert_same(model(x), traced(x))


def test_inference_mode():
    model, x = nn.Sequential(Casts(), Mixed()), torch.randn(2, 4)
    traced = surgery.trace(model, {"input": x}).module()
    with torch.inference_mode():
        assert_same(model(torch.ones(3, 4)), traced(torch.ones(3, 4)))


@lru_cache(maxsize=4)
def positions(length: int, width: int) -> torch.Tensor:
    return torch.arange(length)[:, None] / torch.arange(1, width + 1)[None]


class Cached(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + positions(x.shape[1], x.shape[2])


def test_a_cache_by_size_does_not_keep_the_sizes_of_the_trace():
    positions.cache_clear()
    assert_exact(Cached(), *({"x": torch.randn(1, n, 3)} for n in (4, 7, 4, 2)))
    assert all(type(v) is torch.Tensor and not v.is_meta for v in [positions(4, 3), positions(7, 3)])


class Switch(nn.Module):
    """Takes another way, and gives another layout, by an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.is_doubled = 2.0, False

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x * self.scale
        return (y, y + y) if self.is_doubled else (y,)


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.switch = Switch()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(self.switch(x))  # type: ignore[return-value]


def test_an_attribute_that_is_set_after_tracing_counts():
    model, x = Calls(), torch.randn(3)
    traced = surgery.trace(model, {"x": x}).module()
    for scale, is_doubled in ((2.0, False), (3.0, False), (3.0, True), (2.0, False)):
        for each in (model, traced):
            each.switch.scale, each.switch.is_doubled = scale, is_doubled
        assert torch.equal(model(x), traced(x))


class Flex(nn.Module):
    """Windowed attention with a bias by head, its mask function closing over a size and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.rand(2))

    def forward(self, x: torch.Tensor, window: int) -> torch.Tensor:
        tokens, slope = x.shape[2], self.slope

        def near(b, h, q, k):
            return (q - k).abs() <= window

        def biased(
            score: torch.Tensor, b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor
        ) -> torch.Tensor:
            return score - slope[h] * (q - k).abs()

        mask = create_block_mask(near, None, None, tokens, tokens, device=x.device)
        with torch.no_grad():
            return flex_attention(x, x, x, score_mod=biased, block_mask=mask)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_with_functions_that_close_over_sizes():
    calls = [
        {"x": torch.randn(b, 2, n, 16), "window": w} for b, n, w in ((1, 20, 3), (2, 33, 3), (1, 130, 3), (1, 20, 5))
    ]
    assert_exact(Flex(), *calls)


class Notes(nn.Module):
    """Changes lists and dicts that it is given."""

    def forward(self, x: torch.Tensor, cache: dict[str, Any], scales: list[int]) -> torch.Tensor:
        cache["tokens"] = x.shape[0]
        cache["keys"].append(x + 1)
        cache["last"] = cache.pop("first")
        scales[0] += 1
        return x * len(cache["keys"]) * scales[0]


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.notes = Notes()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cache = {"keys": [x], "first": None}
        return self.notes(x, cache, [1]) + cache["tokens"]


def notes(tokens: int, keys: int, scale: int) -> dict[str, Any]:
    cache = {"keys": [torch.randn(tokens) for _ in range(keys)], "first": torch.ones(1), "other": [1, 2]}
    return {"x": torch.randn(tokens), "cache": cache, "scales": [scale, 7]}


def test_lists_and_dicts_that_the_model_changes_are_changed():
    model, calls = Notes(), [notes(2, 1, 1), notes(3, 1, 5), notes(3, 2, 5)]
    traced = assert_exact(model, *calls)
    mine, theirs = notes(4, 1, 2), notes(4, 1, 2)
    others, keys = mine["cache"]["other"], mine["cache"]["keys"]
    for _ in range(3):
        for each, inputs in ((traced, mine), (model, theirs)):
            each(**inputs)
            inputs["cache"]["first"] = torch.ones(1)
    assert list(mine["cache"]) == list(theirs["cache"]) == ["keys", "other", "tokens", "last", "first"]
    assert mine["scales"] == theirs["scales"] == [5, 7]
    assert mine["cache"]["other"] is others
    assert mine["cache"]["keys"] is keys
    assert len(keys) == 4


def test_a_list_that_a_part_of_the_model_changes_is_refused():
    told = r"test_regions.py:\d+: module 'notes' changes the dict cache in place; let it make a new dict"
    with pytest.raises(TraceError, match=told):
        surgery.trace(Outer(), {"x": torch.ones(2)})


class Refuses(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] % 2:
            raise ValueError("needs an even number of tokens")
        return x.unflatten(1, (-1, 2))


def test_what_the_model_refuses_is_a_guard_error_with_the_condition():
    traced = surgery.trace(Refuses(), {"x": torch.randn(1, 4)}).module()
    assert traced(torch.randn(3, 6)).shape == (3, 3, 2)
    with pytest.raises(
        GuardError, match=r"x\.shape\[1\] % 2.*the model itself refuses these inputs: .*needs an even number"
    ):
        traced(torch.randn(1, 5))


class Divides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (6 // (x.shape[0] // 2))


def test_no_error_of_python_gets_through():
    traced = surgery.trace(Divides(), {"x": torch.ones(4)}).module()
    with pytest.raises(GuardError, match=r"x is \(1,\) float32, traced with \(4,\) float32: .*by zero"):
        traced(torch.ones(1))


class Embedder:
    """A helper that is no module, and fills its cache when it is first called."""

    table: list[torch.Tensor] | None = None

    def __call__(self, length: int) -> torch.Tensor:
        if self.table is None:
            self.table = [torch.arange(8.0), torch.arange(8.0) / 2]
        return self.table[0][:length] + self.table[1][:length]


class Helped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = Embedder()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.embed(x.shape[0])


@pytest.mark.parametrize("has_run", [False, True])
def test_a_cache_in_a_helper_that_is_no_module(has_run):
    model = Helped()
    if has_run:
        model(torch.ones(2))
    assert_exact(model, *({"x": torch.randn(n)} for n in (3, 1, 5)))
