"""Amounts of a budget: shares, counts, and texts with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import ConfigError
from surgery.search.budget import COSTS, Budget


@pytest.mark.parametrize(
    ("name", "given", "limit"),
    [
        ("flops", 0.8, 80.0),
        ("flops", 2, 200.0),
        ("flops", 5, 5.0),
        ("flops", "40 G", 40e9),
        ("flops", "1.5TFLOPs", 1.5e12),
        ("params", "600 M", 600e6),
        ("params", 123456, 123456.0),
        ("memory", "1.5 GB", 1.5e9),
        ("memory", "12 bytes", 12.0),
        ("latency", "12 ms", 12.0),
        ("latency", "0.5s", 500.0),
        ("latency", "250 us", 0.25),
    ],
)
def test_an_amount(name, given, limit):
    assert Budget(**{name: given}).limit(name, 100.0) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "limits nothing"),
        ({"flops": 0}, "must be positive"),
        ({"flops": float("nan")}, "must be a finite number"),
        ({"latency": "12 GB"}, "is no amount; write a share such as 0.8, or '12 ms'"),
        ({"latency": "12"}, "is no amount"),
        ({"memory": "much"}, "is no amount; write a share such as 0.8, or '1.5 GB'"),
        ({"flop": 0.5}, "did you mean 'flops'"),
    ],
)
def test_what_is_none_is_refused_in_a_line(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Budget(**wrong)


@given(st.sampled_from(COSTS), st.floats(1e-3, 2), st.floats(1e-3, 1e15))
def test_a_share_is_of_the_teachers_cost(name, share, teachers):
    budget = Budget(**{name: share})
    assert budget.names == (name,)
    assert budget.limit(name, teachers) == share * teachers
    assert Budget.model_validate(budget.model_dump(mode="json")) == budget
