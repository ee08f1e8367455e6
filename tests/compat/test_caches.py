"""The caches of diffusers on students of another depth: right, or refused in a line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.hooks import apply_first_block_cache, apply_mag_cache
from torch import nn

import surgery
from surgery.errors import RewriteError
from surgery.operators import HyenaX
from surgery.rewriting import Rule, indices
from surgery.rules import drop_blocks, duplicate_blocks, parallel_pairs, replace_attention
from tests.compat.models import inputs
from tests.rules.students import graph

DEPTH = {
    "fewer": drop_blocks(layers=indices(1)),
    "more": duplicate_blocks(layers=indices(1)),
    "side by side": parallel_pairs(),
}
SKIPPING = [FirstBlockCacheConfig(threshold=1e9), MagCacheConfig(mag_ratios=[1.0] * 8, num_inference_steps=8)]
OF_ONE_MODULE = [
    TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=2, max_order=0),
    PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500),
]


def student(rule: Rule) -> nn.Module:
    return surgery.rewrite(graph("wan"), [rule])


def cached(model: nn.Module, config: Any, calls: int = 4) -> list[torch.Tensor]:
    """What equal calls give with the cache."""
    model.enable_cache(config)
    with torch.no_grad(), model.cache_context("cond"):
        return [model(**inputs("wan")).sample for _ in range(calls)]


@pytest.mark.parametrize("rule", DEPTH.values(), ids=DEPTH)
@pytest.mark.parametrize("config", SKIPPING, ids=lambda config: type(config).__name__)
def test_caches_that_skip_blocks_are_refused(rule, config):
    model = student(rule)
    with torch.no_grad():
        want = model(**inputs("wan")).sample
    with pytest.raises(RewriteError, match=f"{type(config).__name__} skips blocks"):
        model.enable_cache(config)
    assert not model.is_cache_enabled
    with torch.no_grad():
        assert torch.equal(model(**inputs("wan")).sample, want)


@pytest.mark.parametrize("name", ["more", "side by side"])
@pytest.mark.parametrize(
    ("apply", "config"),
    list(zip([apply_first_block_cache, apply_mag_cache], SKIPPING, strict=True)),
    ids=["first", "mag"],
)
def test_caches_put_on_from_outside_are_refused_at_the_call(name, apply, config):
    model = student(DEPTH[name])
    apply(model, config)
    with pytest.raises(RewriteError, match="a cache on its blocks skips blocks"), model.cache_context("cond"):
        model(**inputs("wan"))


@pytest.mark.parametrize("rule", DEPTH.values(), ids=DEPTH)
@pytest.mark.parametrize("config", OF_ONE_MODULE, ids=lambda config: type(config).__name__)
def test_caches_of_single_modules_are_right(rule, config):
    model = student(rule)
    with torch.no_grad():
        want = model(**inputs("wan")).sample
    for got in cached(model, config):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("config", SKIPPING + OF_ONE_MODULE, ids=lambda config: type(config).__name__)
def test_swapped_operators_take_every_cache(config):
    model = student(replace_attention(HyenaX(kernel=3), layers=indices(1)))
    with torch.no_grad():
        want = model(**inputs("wan")).sample
    for got in cached(model, config):
        torch.testing.assert_close(got, want)
