"""Test-time training against gradients by autograd. Shape legend as in surgery/operators/ttt.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from surgery.operators import TTT, FullAttention, MixerDims, operator_from_data
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import affine, filtered

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
inners = st.sampled_from(["linear", "gated"])


def model(x: Tensor, weights: list[Tensor]) -> Tensor:
    mapped = x @ weights[0]
    if len(weights) == 1:
        return mapped
    gate = x @ weights[1]
    return mapped * gate / (1 + (-gate).exp())


def learnt(weights: list[Tensor], k: Tensor, v: Tensor, rate: Tensor, steps_from: list[Tensor]) -> list[Tensor]:
    """Gradient descent: what the tokens teach is found at the weights `steps_from`, whatever was taught since."""
    loss = (rate[:, None] * (model(k, steps_from) - v).square()).sum() / 2
    slopes = torch.autograd.grad(loss, steps_from, create_graph=True)
    return [weight - slope for weight, slope in zip(weights, slopes, strict=True)]


def one_way(q: Tensor, k: Tensor, v: Tensor, rate: Tensor, first: list[Tensor], config: TTT) -> Tensor:
    """Of one head and sequence, (N, K), chunk by chunk; if causal token by token."""
    size = config.chunk if config.causal else min(config.chunk, len(q))
    weights, rows = [weight.clone() for weight in first], []
    for start in range(0, len(q), size):
        before, places = weights, list(range(start, min(start + size, len(q))))
        if config.causal:
            for i in places:
                weights = learnt(weights, k[i : i + 1], v[i : i + 1], rate[i : i + 1] / size, before)
                rows.append(model(q[i : i + 1], weights))
        else:
            weights = learnt(before, k[places], v[places], rate[places] / size, before)
        if len(first) > 1:
            norms = [(w.square().sum(0) / old.square().sum(0)).sqrt() for w, old in zip(weights, first, strict=True)]
            weights = [weight / norm for weight, norm in zip(weights, norms, strict=True)]
        if not config.causal:
            rows.append(model(q[places], weights))
    return torch.cat(rows)


def naive(weights: Mapping[str, Tensor], x_BND: Tensor, dims: MixerDims, config: TTT) -> Tensor:
    qkv = torch.cat([affine(weights, name, x_BND) for name in ("to_q", "to_k", "to_v")], 2)
    qkv = filtered(weights, "core.conv1d", qkv, config.kernel, config.causal)
    q, k, v = (x.unflatten(2, (-1, dims.head_dim)).transpose(1, 2) for x in qkv.tensor_split(3, 2))
    rate = (k * weights["core.rate_weight"][:, None]).sum(3) + weights["core.rate_bias"][:, None]
    rate = (1 + rate.exp()).log()
    q, k = (x / x.square().sum(3, keepdim=True).sqrt() for x in (q, k))
    samples = []
    for b in range(len(q)):
        heads = []
        for h in range(dims.heads):
            sequence = [x[b, h] for x in (q, k, v, rate)]
            first = list(weights["core.inner"][:, h])
            y = one_way(*sequence, first, config)
            if not config.causal:
                y = y + one_way(*(x.flip(0) for x in sequence), first, config).flip(0)
            heads.append(y / (y.square().mean(1, keepdim=True) + 1e-5).sqrt() * weights["core.norm.weight"])
        samples.append(torch.cat(heads, 1))
    return affine(weights, "to_out.0", torch.stack(samples))


@examples(8)
@given(inners, st.integers(1, 4), st.booleans(), all_dims, st.integers(1, 9), st.integers(0, 99))
@example("gated", 3, False, DIMS, 8, 0)
@example("linear", 3, False, DIMS, 8, 0)
@example("linear", 3, True, DIMS, 8, 0)
def test_equals_the_naive_twin(inner: str, chunk: int, causal: bool, dims: MixerDims, length: int, seed: int) -> None:
    config = TTT(inner=inner, chunk=chunk, kernel=2, causal=causal)
    mixer = build(config, dims, seed)
    for parameter in mixer.core.parameters():
        torch.nn.init.normal_(parameter)
    x_BND = tokens(2, length, dims, seed)
    assert_parity(mixer, lambda w, x: naive(w, x, dims, config), x_BND, dtypes=[torch.float64])


@pytest.mark.parametrize("inner", ["linear", "gated"])
def test_a_causal_token_sees_those_up_to_itself_and_both_ways_all(inner: str) -> None:
    x = tokens(1, 9, DIMS, 0)
    for token in (0, 3, 8):
        causal = build(TTT(inner=inner, chunk=4, causal=True), DIMS, 0)
        assert_receptive_field(causal, x, token, set(range(token + 1)))
    assert_receptive_field(build(TTT(inner=inner, chunk=4), DIMS, 0), x, 2, set(range(9)))


def test_learns_values_by_keys() -> None:
    """After many chunks that repeat a linear map from keys to values, queries give what it makes of them."""
    torch.manual_seed(0)
    core = TTT(chunk=16, causal=True).core(DIMS).double()
    q, k = (torch.nn.functional.normalize(torch.randn(1, 2, 4096, 4).double(), dim=3) for _ in range(2))
    wanted = torch.randn(4, 4).double()
    error = (core.scan(q, k, k @ wanted) - q @ wanted)[:, :, -64:]
    assert error.norm() < 1e-6 * (q @ wanted)[:, :, -64:].norm()


def test_stays_finite_in_half_precision() -> None:
    core = TTT(inner="gated").core(DIMS).bfloat16()
    y = core(*(torch.randn(1, 2, 1000, 4).bfloat16() * 100 for _ in range(3)))
    assert y.dtype == torch.bfloat16
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("causal", [False, True])
def test_costs_grow_with_the_tokens(causal: bool) -> None:
    config = TTT(inner="gated", causal=causal)
    one, two = (config.flops(DIMS, 1, count) for count in (4096, 8192))
    assert two == 2 * one
    assert one < FullAttention().flops(DIMS, 1, 4096)
    assert config.core(DIMS).flops(2, 64) == config.flops(DIMS, 2, 64) - config.flops_projections(DIMS, 2, 64)
    assert operator_from_data(config.model_dump(mode="json")) == config
