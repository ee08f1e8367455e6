from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.operators import LinearAttention, MixerDims
from surgery.operators.linear import linear_attention
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import linear

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
EVERY = [LinearAttention(features=features, depthwise=taps) for features in ("relu", "learned") for taps in (None, 3)]
grids = st.one_of(
    st.tuples(st.integers(1, 12)), st.tuples(*[st.integers(1, 4)] * 2), st.tuples(*[st.integers(1, 3)] * 3)
)


def randomised(config: LinearAttention, dims: MixerDims, seed: int) -> torch.nn.Module:
    """A mixer whose maps and filters, too, are random; the projections keep their size."""
    mixer = build(config, dims, seed)
    for parameter in mixer.core.parameters():
        torch.nn.init.normal_(parameter)
    return mixer


@examples(15)
@given(grids, st.sampled_from(["relu", "learned"]), st.integers(0, 4), all_dims, st.integers(0, 99))
def test_equals_the_naive_twin(grid: tuple[int, ...], features: str, taps: int, dims: MixerDims, seed: int) -> None:
    dims = dims.model_copy(update={"head_dim": 8})
    layout = {"grid": grid} if taps and len(grid) > 1 else {}
    config = LinearAttention(features=features, depthwise=taps or None, **layout)
    assert_parity(
        randomised(config, dims, seed),
        lambda w, x: linear(w, x, dims, taps, grid),
        tokens(2, math.prod(grid), dims, seed),
    )


@pytest.mark.parametrize("config", EVERY)
def test_sees_every_token(config: LinearAttention) -> None:
    assert_receptive_field(build(config, DIMS, 0), tokens(2, 5, DIMS, 0), 2, set(range(5)))


def test_the_convolution_starts_without_effect_and_then_learns() -> None:
    x = tokens(2, 9, DIMS, 0)
    plain, convolving = (build(LinearAttention(depthwise=taps), DIMS, 0) for taps in (None, 3))
    convolving.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(x), convolving(x))
    convolving(x).square().sum().backward()
    assert convolving.core.depthwise.weight.grad.abs().sum() > 0


def test_a_query_without_active_features_gives_zeros() -> None:
    phi_k, v = torch.rand(1, 1, 5, 4), torch.randn(1, 1, 5, 4)
    phi_q = torch.zeros(1, 1, 3, 4, requires_grad=True)
    y = linear_attention(phi_q, phi_k, v)
    assert torch.equal(y, torch.zeros(1, 1, 3, 4))
    assert torch.isfinite(torch.autograd.grad(y.sum(), phi_q)[0]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_long_sequence_keeps_its_accuracy_in_half_precision(dtype: torch.dtype) -> None:
    """The state of 20,000 keys: a sum in half precision would be wrong in the first digit, or infinite."""
    torch.manual_seed(0)
    phi_q, phi_k, v = (torch.rand(1, 1, count, 8).mul(9).to(dtype) for count in (4, 20_000, 20_000))
    exact = linear_attention(phi_q.double(), phi_k.double(), v.double())
    y = linear_attention(phi_q, phi_k, v)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)


def test_autocast_leaves_the_state_in_full_precision() -> None:
    phi_q, phi_k, v = (torch.rand(1, 1, count, 8) for count in (4, 100, 100))
    with torch.autocast("cpu", torch.bfloat16):
        under = linear_attention(phi_q, phi_k, v)
    assert torch.equal(under, linear_attention(phi_q, phi_k, v))


@pytest.mark.parametrize(
    "bad", [{"features": "elu"}, {"depthwise": 0}, {"axes": 2}, {"depthwise": 3, "axes": 3}, {"grid": (4, 4)}]
)
def test_refuses_a_bad_config(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LinearAttention.model_validate(bad)
