"""`torch.compile` takes the traced module whole, and notices what changes after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.compat.models import FAMILIES, MAKERS, inputs, pair
from tests.tracing.test_exact import assert_same


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("maker", MAKERS)
def test_the_whole_graph_compiles(name, maker):
    model, twin = pair(name, maker)
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    assert_same(model(**inputs(name)), compiled(**inputs(name)))


def test_a_call_that_was_not_recorded_compiles_too():
    model, twin = pair("dit", "original")
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    assert_same(model(**inputs("dit"), return_dict=False), compiled(**inputs("dit"), return_dict=False))
