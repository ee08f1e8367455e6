"""Operators on a grid with tokens of a text before or after it, as in the joint attention of SD3 and Flux."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surgery.errors import ConfigError, RewriteError
from surgery.operators import HyenaSE, HyenaX, HyenaY, LinearAttention, MixerDims, NeighbourhoodAttention
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import affine, attend_linearly, attention, features, filtered, neighbourhood_seen

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
grids = st.tuples(st.integers(1, 5), st.integers(1, 5)) | st.tuples(*[st.integers(1, 3)] * 3)
layouts = st.tuples(grids, st.integers(0, 4), st.sampled_from(["first", "last"]))
Layout = tuple[tuple[int, ...], int, Any]


def image_of(layout: Layout) -> list[int]:
    grid, others, text = layout
    start = others if text == "first" else 0
    return list(range(start, start + math.prod(grid)))


def seen_by(layout: Layout, window: int) -> list[set[int]]:
    """For each token those that it sees: image tokens their neighbourhood and the text, text tokens all."""
    grid, others, _ = layout
    image, everything = image_of(layout), set(range(math.prod(grid) + others))
    seen = [everything] * len(everything)
    for i, near in zip(image, neighbourhood_seen(grid, window), strict=True):
        seen[i] = {image[j] for j in near} | (everything - set(image))
    return seen


def beside(weights: Mapping[str, Tensor], name: str, x: Tensor, kernel: int, layout: Layout, others: Tensor) -> Tensor:
    """The filter over the image tokens; `others` in the places of the text."""
    image = image_of(layout)
    y = filtered(weights, name, x[:, image], kernel, False, layout[0])
    rows = dict(zip(image, y.unbind(1), strict=True))
    return torch.stack([rows.get(i, others[:, i]) for i in range(x.shape[1])], 1)


@examples(15)
@given(all_dims, layouts, st.sampled_from([1, 3, 5]), st.integers(0, 9))
def test_neighbourhoods_and_a_text_that_sees_all(dims, layout, window, seed):
    grid, others, text = layout
    mixer = build(NeighbourhoodAttention(window=window, grid=grid, text=text), dims, seed)
    seen = seen_by(layout, window)
    assert_parity(mixer, lambda w, x: attention(w, x, dims, seen), tokens(2, math.prod(grid) + others, dims, seed))


@examples(15)
@given(all_dims, layouts, st.sampled_from([HyenaSE, HyenaX, HyenaY]), st.integers(1, 3), st.integers(0, 9))
def test_filters_leave_a_text_as_it_is(dims, layout, config, kernel, seed):
    grid, others, text = layout

    def naive(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        qkv = affine(w, "in_proj", x)
        if config is not HyenaY:
            qkv = beside(w, "conv", qkv, kernel, layout, qkv)
        q, k, v = qkv.tensor_split(3, dim=2)
        mixed = k * v if config is HyenaX else beside(w, "inner", k * v, kernel, layout, k * v)
        return affine(w, "out_proj", q * mixed)

    mixer = build(config(kernel=kernel, grid=grid, text=text), dims, seed)
    assert_parity(mixer, naive, tokens(2, math.prod(grid) + others, dims, seed))


@examples(15)
@given(all_dims, layouts, st.integers(1, 3), st.integers(0, 9))
def test_linear_attention_sees_a_text_that_its_convolution_leaves_out(dims, layout, kernel, seed):
    grid, others, text = layout

    def naive(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
        projected = (affine(w, name, x) for name in ("to_q", "to_k", "to_v"))
        q, k, v = (each.unflatten(2, (-1, dims.head_dim)).transpose(1, 2) for each in projected)
        y = attend_linearly(features(w, "core.phi_q", q), features(w, "core.phi_k", k), v).transpose(1, 2).flatten(2)
        v_BNE = v.transpose(1, 2).flatten(2)
        return affine(w, "to_out.0", y + beside(w, "core.depthwise", v_BNE, kernel, layout, torch.zeros_like(v_BNE)))

    mixer = build(LinearAttention(depthwise=kernel, grid=grid, text=text), dims, seed)
    torch.nn.init.normal_(mixer.core.depthwise.weight)
    assert_parity(mixer, naive, tokens(2, math.prod(grid) + others, dims, seed))


@pytest.mark.parametrize("text", ["first", "last"])
def test_what_each_token_sees(text):
    layout = ((4, 5), 3, text)
    mixer = build(NeighbourhoodAttention(window=3, grid=(4, 5), text=text), DIMS, 0)
    for token, seen in enumerate(seen_by(layout, 3)):
        assert_receptive_field(mixer, tokens(1, 23, DIMS, 0), token, seen)


CONFIGS = [
    NeighbourhoodAttention(window=3, grid=(4, 5), text="first"),
    HyenaSE(kernel=3, grid=(4, 5), text="last"),
    LinearAttention(depthwise=3, grid=(4, 5), text="first"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_as_many_image_tokens_as_the_grid_has(config):
    with pytest.raises(
        RewriteError, match="19 tokens do not fill a 4 x 5 grid; give the operator the grid of the image"
    ):
        config.build(DIMS)(torch.randn(1, 19, 8))
    assert config.build(DIMS)(torch.randn(1, 20, 8)).shape == (1, 20, 8)  # no text


def test_costs_by_hand():
    tokens, image, inner = 23, 20, 8
    pairs = image * (9 + 3) + 3 * tokens
    assert CONFIGS[0].flops_mixing(DIMS, 2, tokens) == 2 * pairs * (4 * inner + 3 * 2)
    assert CONFIGS[1].flops_mixing(DIMS, 2, tokens) == 2 * (tokens * inner * 2 + image * inner * 2 * 9)
    assert CONFIGS[1].flops_featuriser(DIMS, 2, tokens) == 2 * image * 3 * inner * 2 * 9
    without = LinearAttention().flops_mixing(DIMS, 2, tokens)
    assert CONFIGS[2].flops_mixing(DIMS, 2, tokens) == without + 2 * image * inner * (2 * 9 + 1)


def test_a_text_needs_a_grid_and_the_plain_form():
    with pytest.raises(ConfigError, match=r"text='first' needs a grid, e\.g\. grid=\(16, 16\)"):
        HyenaX(axes=2, text="first")
    with pytest.raises(ConfigError, match="text='last' is not for natten, which knows a grid without steps only"):
        NeighbourhoodAttention(grid=(4, 4), text="last", backend="natten")
