"""Attention figures are those of the formulas, whatever is masked, and however few queries are taken at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.statistics import attention
from surgery.statistics.attention import Layout, attention_figures, attention_weights, radius_of, window_of
from tests.statistics import direct

masks = st.sampled_from(["none", "keys", "pairs", "bias"])


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask_of(kind: str, seed: int, batch: int, queries: int, keys: int) -> torch.Tensor | None:
    if kind == "none":
        return None
    if kind == "bias":
        return draw(seed, batch, 1, queries, keys)
    shown = draw(seed, batch, 1, 1 if kind == "keys" else queries, keys) > -0.5
    shown[..., 0] = True
    return shown


@given(
    seed=st.integers(0, 10**6), batch=st.integers(1, 3), heads=st.integers(1, 3), queries=st.integers(1, 12),
    keys=st.integers(1, 12), kind=masks, causal=st.booleans(), window=st.integers(1, 6), at_once=st.integers(1, 60),
    scale=st.sampled_from([None, 0.3]), same=st.booleans(), fill=st.sampled_from([None, -math.inf, -2.0]),
)  # fmt: skip
def test_figures_equal_the_formulas(
    seed, batch, heads, queries, keys, kind, causal, window, at_once, scale, same, fill
):
    keys = queries if same else keys
    query, key = draw(seed, batch, heads, queries, 4), draw(seed + 1, batch, heads, keys, 4)
    mask = mask_of(kind, seed + 2, batch, queries, keys)
    covered = draw(seed + 3, batch, 1, 1, keys) > 0
    covered[..., 0] &= fill != -math.inf
    filled = None if fill is None else (covered, fill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "AT_ONCE", at_once)
        found = attention_figures(query, key, mask, filled=filled, causal=causal, scale=scale, window=window)
    expected = direct.figures(direct.weights(query, key, mask, causal, scale, filled), key, window)
    assert found == pytest.approx(expected, abs=1e-9)


@given(
    seed=st.integers(0, 10**6), sizes=st.lists(st.integers(2, 4), min_size=2, max_size=3), first=st.integers(0, 3),
    last=st.integers(0, 3), window=st.integers(1, 9), at_once=st.integers(1, 400),
)  # fmt: skip
def test_figures_on_a_grid_equal_the_formula(seed, sizes, first, last, window, at_once):
    tokens = first + math.prod(sizes) + last
    query, key = draw(seed, 2, 1, tokens, 4), draw(seed + 1, 2, 1, tokens, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "AT_ONCE", at_once)
        found = attention_figures(query, key, window=window, layout=Layout(tuple(sizes), first))
    reach = radius_of(window, len(sizes))
    expected = direct.on_grid(direct.weights(query, key), tuple(sizes), first, reach)
    assert found[f"locality_{len(sizes)}d"] == pytest.approx(expected, abs=1e-9)


def test_shared_keys_and_values_serve_their_group_of_heads():
    query, key = draw(0, 2, 4, 6, 8), draw(1, 2, 2, 6, 8)
    assert attention_figures(query, key) == attention_figures(query, key.repeat_interleave(2, 1))


def test_a_query_that_sees_nothing_has_no_weights():
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    ((_, found),) = attention_weights(draw(0, 1, 1, 3, 4), draw(1, 1, 1, 3, 4), mask)
    assert found.sum(-1).flatten().tolist() == pytest.approx([1.0, 0.0, 1.0])


def test_the_window_is_that_of_the_paper():
    assert window_of(256) == 32


def test_keys_that_are_all_the_same_need_centring():
    assert attention_figures(draw(0, 1, 1, 5, 4), torch.ones(1, 1, 5, 4))["key_mean"] == pytest.approx(1.0)
