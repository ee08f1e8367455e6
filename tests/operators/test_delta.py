"""The gated delta rule against its recurrence, one token at a time. Shape legend as in surgery/operators/delta.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from surgery.operators import FullAttention, GatedDelta, MixerDims, operator_from_data
from surgery.operators.delta_rule import CHUNK, gated_delta_rule
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import affine, filtered

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
lengths = st.one_of(st.integers(1, 9), st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3]))


def recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log: Tensor) -> Tensor:
    """S <- e S (1 - beta k k^T) + beta v k^T, y = S q, from the first token to the last; (…, N, K)."""
    state = v.new_zeros(*v.shape[:-2], v.shape[-1], k.shape[-1])
    rows = []
    for i in range(q.shape[-2]):
        key, value = k[..., i, :, None], v[..., i, :, None]
        share = beta[..., i, None, None]
        state = log[..., i, None, None].exp() * (state - share * (state @ key) @ key.mT) + share * value @ key.mT
        rows.append((state @ q[..., i, :, None]).squeeze(-1))
    return torch.stack(rows, -2)


def naive(weights: Mapping[str, Tensor], x_BND: Tensor, dims: MixerDims, config: GatedDelta) -> Tensor:
    qkv = torch.cat([affine(weights, name, x_BND) for name in ("to_q", "to_k", "to_v")], 2)
    qkv = filtered(weights, "core.conv1d", qkv, config.kernel, config.causal)
    q, k, v = (x.unflatten(2, (-1, dims.head_dim)).transpose(1, 2) for x in qkv.tensor_split(3, 2))
    gates = [
        (k * weights[f"core.{name}_weight"][:, None]).sum(3) + weights[f"core.{name}_bias"][:, None]
        for name in ("dt", "beta")
    ]
    log = -weights["core.A_log"].exp()[:, None] * (1 + gates[0].exp()).log()
    q, k = (x / x.square().sum(3, keepdim=True).sqrt() for x in (q, k))
    scanned = [q, k, v, 1 / (1 + (-gates[1]).exp()), log]
    y = recurrence(*scanned)
    if not config.causal:
        y = y + recurrence(*(x.flip(2) for x in scanned)).flip(2)
    y = y / (y.square().mean(3, keepdim=True) + 1e-5).sqrt() * weights["core.norm.weight"]
    return affine(weights, "to_out.0", y.transpose(1, 2).flatten(2))


@examples(12)
@given(st.integers(1, 4), st.booleans(), all_dims, lengths, st.integers(0, 99))
@example(3, False, DIMS, 2 * CHUNK + 3, 0)
@example(3, True, DIMS, 2 * CHUNK + 3, 0)
def test_equals_the_naive_twin(kernel: int, causal: bool, dims: MixerDims, length: int, seed: int) -> None:
    config = GatedDelta(kernel=kernel, causal=causal)
    mixer = build(config, dims, seed)
    for name, parameter in mixer.core.named_parameters():
        if name not in ("A_log", "dt_bias"):
            torch.nn.init.normal_(parameter)
    x_BND = tokens(2, length, dims, seed)
    assert_parity(mixer, lambda w, x: naive(w, x, dims, config), x_BND, gradients=[torch.float64])


def test_a_causal_token_sees_those_up_to_itself_and_both_ways_all() -> None:
    x = tokens(1, CHUNK + 3, DIMS, 0)
    for token in (0, 4, CHUNK + 1):
        assert_receptive_field(build(GatedDelta(causal=True), DIMS, 0), x, token, set(range(token + 1)))
    assert_receptive_field(build(GatedDelta(), DIMS, 0), x, 2, set(range(CHUNK + 3)))


@pytest.mark.parametrize("length", [CHUNK + 2, 1000])
def test_strong_and_no_decay_stay_finite(length: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.nn.functional.normalize(torch.randn(2, length, 4), dim=2) for _ in range(3))
    beta = torch.tensor([0.0, 0.5, 1.0])[torch.randint(3, (2, length))]
    log = -torch.tensor([0.0, 1e-6, 1e3, 1e6])[torch.randint(4, (2, length))]
    leaves = [x.requires_grad_() for x in (q, k, v, beta, log)]
    y = gated_delta_rule(*leaves)
    exact = recurrence(*(x.detach().double() for x in leaves))
    assert (y.double() - exact).norm() <= 1e-5 * exact.norm()
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(y.sum(), leaves))


def test_stores_a_value_under_its_key_and_replaces_it() -> None:
    """beta = 1 and no decay: what was last stored under a key comes back."""
    eye = torch.eye(4).unsqueeze(0)
    k = eye[:, [0, 1, 0, 2]]
    v = torch.randn(1, 4, 4)
    y = gated_delta_rule(eye[:, [0, 0, 0, 1]], k, v, torch.ones(1, 4), torch.zeros(1, 4))
    torch.testing.assert_close(y, v[:, [0, 0, 2, 1]])


def test_costs_grow_with_the_tokens() -> None:
    config = GatedDelta()
    one, two = (config.flops(DIMS, 1, count) for count in (4096, 8192))
    assert two == 2 * one
    assert one < FullAttention().flops(DIMS, 1, 4096)
    assert config.core(DIMS).flops(2, 64) == config.flops(DIMS, 2, 64) - config.flops_projections(DIMS, 2, 64)
    assert operator_from_data(config.model_dump(mode="json")) == config
