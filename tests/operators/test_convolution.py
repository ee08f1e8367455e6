"""The convolution along the tokens against torch's own, values and gradients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.operators.convolution import TokenConvolution


def naive(module: TokenConvolution, x_BNC: torch.Tensor) -> torch.Tensor:
    image = x_BNC.transpose(1, 2).unflatten(2, module.grid or (-1,))
    padded = F.pad(image, (module.left, module.right) * module.axes)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[module.axes]
    return convolve(padded, module.weight, module.bias, groups=len(module.weight)).flatten(2).transpose(1, 2)


@settings(max_examples=50)
@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 4), st.integers(1, 25), st.booleans(),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_values_and_gradients(batch, tokens, channels, kernel, causal, dtype):
    torch.manual_seed(kernel)
    assert_equal_to_torch(TokenConvolution(channels, kernel, causal=causal), batch, tokens, dtype)


@given(
    st.integers(1, 3), st.one_of(st.tuples(*[st.integers(1, 7)] * 2), st.tuples(*[st.integers(1, 4)] * 3)),
    st.integers(1, 4), st.integers(1, 6), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_values_and_gradients_over_a_grid(batch, grid, channels, kernel, dtype):
    torch.manual_seed(kernel)
    module = TokenConvolution(channels, kernel, axes=len(grid), grid=grid)
    assert_equal_to_torch(module, batch, math.prod(grid), dtype)


def assert_equal_to_torch(module, batch, tokens, dtype):
    module = module.to(dtype)
    channels = len(module.weight)
    x = torch.randn(batch, tokens, channels, dtype=dtype, requires_grad=True)
    weights = [x, *module.parameters()]
    ours, theirs = module(x), naive(module, x)
    towards = torch.randn_like(ours)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.15}[dtype]
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    for actual, expected in zip(
        torch.autograd.grad(ours, weights, towards), torch.autograd.grad(theirs, weights, towards), strict=True
    ):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_frozen_filters_get_no_gradient():
    module = TokenConvolution(2, 3, causal=False).requires_grad_(False)
    x = torch.randn(1, 4, 2, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert module.weight.grad is None


def test_starts_as_a_convolution_of_torch():
    for axes, kind in enumerate((torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d), 1):
        torch.manual_seed(0)
        module = TokenConvolution(6, 3, axes=axes, grid=(3,) * axes)
        torch.manual_seed(0)
        theirs = kind(6, 6, 3, groups=6)
        torch.testing.assert_close(module.weight, theirs.weight)
        torch.testing.assert_close(module.bias, theirs.bias)
