"""Some of the pairs of docs/pairs.md, each model and each rule among them."""

from __future__ import annotations

from pathlib import Path

import pytest

import tests.pairs.__main__ as page
from tests.nightly import nightly, thinned
from tests.pairs.check import outcome_of
from tests.pairs.rules import DEEPER, RULES, model

PAIRS = [
    ("dit", "hyena", "mlp 6", "same", "together"),
    ("dit", "parallel", "share", "same", "together"),
    ("dit", "duplicate", "share", "same", "together"),
    ("dit", "drop", "hyena", "same", "overlap"),
    ("dit", "duplicate", "mlp 3", "same", "in turn"),
    ("pixart", "window", "linear cross", "same", "together"),
    ("pixart", "drop", "drop", "apart", "together"),
    ("pixart", "share", "parallel", "same", "together"),
    ("sd3", "linear", "parallel", "same", "together"),
    ("sd3", "hyena", "window", "same", "overlap"),
    ("flux", "parallel", "drop", "apart", "together"),
    ("flux", "linear", "duplicate", "same", "in turn"),
    ("wan", "linear", "linear cross", "same", "together"),
    ("wan", "share", "mlp 6", "apart", "together"),
]


@pytest.mark.parametrize(("name", "first", "second", "where", "outcome"), thinned(PAIRS, 2))
def test_a_pair(name, first, second, where, outcome):
    assert outcome_of(model(name), first, second, where) == outcome


def test_each_model_and_each_rule_is_among_them():
    assert {pair[0] for pair in PAIRS} == set(DEEPER)
    assert {name for pair in PAIRS for name in pair[1:3]} == set(RULES)


@nightly  # traces all five models
def test_no_pair_on_the_page_failed():
    written = Path(page.PAGE).read_text()
    assert all(type(model(name).module).__name__ in written for name in DEEPER)
    assert " are sound, 0 are not; " in written
