"""The convolution along the tokens against torch's own, values and gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.operators.convolution import TokenConvolution


def naive(module: TokenConvolution, x_BNC: torch.Tensor) -> torch.Tensor:
    padded = F.pad(x_BNC.transpose(1, 2), (module.left, module.right))
    return F.conv1d(padded, module.weight, module.bias, groups=len(module.weight)).transpose(1, 2)


@settings(max_examples=100)
@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 4), st.integers(1, 25), st.booleans(),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_values_and_gradients(batch, tokens, channels, kernel, causal, dtype):
    torch.manual_seed(kernel)
    module = TokenConvolution(channels, kernel, causal=causal).to(dtype)
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
