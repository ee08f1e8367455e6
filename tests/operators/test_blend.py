from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from surgery.operators import (
    Blend,
    FullAttention,
    HyenaX,
    LinearAttention,
    Mamba2,
    MixerConfig,
    MixerDims,
    NeighbourhoodAttention,
    SlidingWindow,
    operator_from_data,
)
from tests.nightly import examples
from tests.operators.mixers import DIMS
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import affine, attend, attend_linearly, features, window_seen

HYBRID = Blend(parts=(NeighbourhoodAttention(window=3), LinearAttention(features="learned", centre=True)))


def blend(weights: Mapping[str, Tensor], x_BND: Tensor, dims: MixerDims, window: int, centre: bool) -> Tensor:
    """A window and linear attention, head by head under their gates."""
    q, k, v = (
        affine(weights, name, x_BND).unflatten(2, (-1, dims.head_dim)).transpose(1, 2)
        for name in ("to_q", "to_k", "to_v")
    )
    length = x_BND.shape[1]
    near = attend(q, k, v, [[window_seen(i, length, window, False) for i in range(length)]] * len(x_BND))
    keys = k - sum(k[:, :, j : j + 1] for j in range(length)) / length if centre else k
    phi_q, phi_k = (features(weights, f"core.parts.1.phi_{name}", x) for name, x in (("q", q), ("k", keys)))
    far = attend_linearly(phi_q, phi_k, v)
    gates = weights["core.gates"]
    heads = [gates[0, h] * near[:, h] + gates[1, h] * far[:, h] for h in range(dims.heads)]
    return affine(weights, "to_out.0", torch.cat(heads, 2))


@examples(20)
@given(all_dims, st.integers(1, 7), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_equals_the_naive_twin(dims: MixerDims, length: int, window: int, centre: bool, seed: int) -> None:
    parts = (SlidingWindow(window=window), LinearAttention(features="learned", centre=centre))
    mixer = build(Blend(parts=parts), dims, seed)
    torch.nn.init.normal_(mixer.core.gates)
    assert_parity(mixer, lambda w, x: blend(w, x, dims, window, centre), tokens(2, length, dims, seed))


def test_starts_as_the_mean_of_its_parts_or_as_the_first() -> None:
    q, k, v = (torch.randn(2, 3, 9, 4) for _ in range(3))
    cores = [part.core(DIMS) for part in HYBRID.parts]
    both = [core(q, k, v) for core in cores]
    torch.testing.assert_close(HYBRID.core(DIMS)(q, k, v), (both[0] + both[1]) / 2)
    first = HYBRID.model_copy(update={"start": "first"}).core(DIMS)
    assert torch.equal(first(q, k, v), both[0])
    first(q, k, v).square().sum().backward()
    assert first.gates.grad.abs().min() > 0


def test_sees_what_its_parts_see() -> None:
    near = Blend(parts=(SlidingWindow(window=1), HyenaX(kernel=3, causal=True)))
    assert_receptive_field(build(near, DIMS, 0), tokens(2, 9, DIMS, 0), 4, {2, 3, 4, 5})
    assert_receptive_field(build(HYBRID, DIMS, 0), tokens(2, 9, DIMS, 0), 4, set(range(9)))


@pytest.mark.parametrize(
    ("second", "one_stream"), [(LinearAttention(), False), (SlidingWindow(), True), (HyenaX(), True)]
)
def test_takes_what_all_its_parts_take(second: MixerConfig, one_stream: bool) -> None:
    core = Blend(parts=(FullAttention(), second)).core(DIMS)
    assert (core.mixes_one_stream, core.takes_mask) == (one_stream, True)


def test_leaves_masked_keys_out_in_cross_attention() -> None:
    core = Blend(parts=(FullAttention(), LinearAttention(centre=True))).core(DIMS).double()
    q, k, v = (torch.randn(2, 3, count, 4).double() for count in (9, 5, 5))
    mask = (torch.arange(5) < 3).expand(2, 1, 1, 5)
    torch.testing.assert_close(core(q, k, v, mask), core(q, k[:, :, :3], v[:, :, :3]))


def test_costs_its_parts_and_the_gates() -> None:
    parts = (FullAttention(), LinearAttention(features="learned"))
    whole = Blend(parts=parts)
    gates = 3 * 2 * 81 * DIMS.inner
    assert whole.flops_mixing(DIMS, 2, 81) == sum(part.flops_mixing(DIMS, 2, 81) for part in parts) + gates
    assert whole.flops_featuriser(DIMS, 2, 81) == parts[1].flops_featuriser(DIMS, 2, 81)
    mamba = Mamba2()
    core = Blend(parts=(FullAttention(), mamba)).core(DIMS)
    expected = FullAttention().core(DIMS).flops(2, 81) + mamba.core(DIMS).flops(2, 81) + gates
    assert core.flops(2, 81) == expected


def test_exact_is_for_blends_that_start_as_full_attention() -> None:
    exact = Blend(parts=(FullAttention(), LinearAttention()), start="first")
    assert exact.core(DIMS).why_inexact() is None
    assert exact.build(DIMS).why_inexact(torch.nn.Identity()) is None
    assert "start='first'" in (Blend(parts=exact.parts).core(DIMS).why_inexact() or "")
    assert "linear_attention" in (Blend(parts=exact.parts[::-1], start="first").core(DIMS).why_inexact() or "")


def test_goes_to_plain_data_and_back() -> None:
    nested = Blend(parts=(HYBRID, SlidingWindow(window=2)))
    assert operator_from_data(nested.model_dump(mode="json")) == nested
    assert not Blend(parts=(NeighbourhoodAttention(grid=(2, 3)), LinearAttention())).takes_any_length
    assert nested.takes_any_length


@pytest.mark.parametrize(
    ("parts", "named"),
    [((FullAttention(),), "two mixers or more"), (({"kind": "mlp", "ratio": 2.0}, FullAttention()), "MLP has no core")],
)
def test_refuses_parts_that_cannot_be_blended(parts: tuple[object, ...], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Blend.model_validate({"parts": parts})


@pytest.mark.parametrize("masked", [False, True])
def test_centred_keys_do_not_see_what_all_keys_share(masked: bool) -> None:
    """Adding one vector to all keys changes nothing, as with softmax; hidden keys have no say in the mean."""
    core = LinearAttention(features="learned", centre=True).core(DIMS).double()
    q, k, v = (torch.randn(2, 3, 7, 4).double() for _ in range(3))
    mask = (torch.arange(7) < 5).expand(2, 1, 1, 7) if masked else None
    shifted = k + torch.randn(2, 3, 1, 4).double()
    if masked:
        shifted[:, :, 5:] = 1e3
    torch.testing.assert_close(core(q, shifted, v, mask), core(q, k, v, mask))
    plain = LinearAttention(features="learned").core(DIMS).double()
    assert not torch.allclose(plain(q, shifted, v, mask), plain(q, k, v, mask))


def test_centring_keeps_half_precision_exact() -> None:
    core = LinearAttention(centre=True).core(DIMS)
    q, k, v = (torch.randn(1, 3, 4000, 4) for _ in range(3))
    halves = [x.bfloat16() for x in (q, k + 30, v)]
    expected = core(*(x.float() for x in halves))
    assert math.isfinite(float(core(*halves).float().sum()))
    torch.testing.assert_close(core(*halves).float(), expected, rtol=0.1, atol=0.1)
