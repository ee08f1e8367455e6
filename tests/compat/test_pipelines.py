"""The pipelines of diffusers take a traced or edited transformer."""

from __future__ import annotations

import pytest

from tests.compat.models import FAMILIES, every_pair, pair
from tests.compat.pipelines import pipeline, sample
from tests.tracing.test_exact import assert_same


@every_pair
def test_a_pipeline_gives_the_same_bits(name, maker):
    model, twin = pair(name, maker)
    assert_same(sample(pipeline(name, model)), sample(pipeline(name, twin)))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_offloaded_pipeline_gives_the_same_bits(name):
    model, twin = (pipeline(name, module) for module in pair(name, "original"))
    twin.enable_model_cpu_offload(device="cpu")
    assert_same(sample(model), sample(twin))
