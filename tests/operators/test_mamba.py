"""Mamba-2 against its recurrence, one token at a time. Shape legend as in surgery/operators/mamba.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from diffusers.models.attention_processor import Attention
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from surgery.errors import RewriteError
from surgery.operators import FullAttention, Mamba2, MixerDims, dims_of, operator_from_data
from surgery.operators.chunks import SEGMENT
from surgery.operators.state_space import CHUNK, state_space
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import affine, filtered

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
DIT_XL_2 = MixerDims(dim=1152, heads=16, head_dim=72, qkv_bias=True, out_bias=True)
configs = st.builds(
    Mamba2,
    d_state=st.integers(1, 5),
    expand=st.integers(1, 2),
    head_dim=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 5),
    causal=st.booleans(),
)
lengths = st.one_of(st.integers(1, 9), st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3]))


def recurrence(x_BNHP: Tensor, kept_BNH: Tensor, b_BNS: Tensor, c_BNS: Tensor) -> Tensor:
    """h <- kept h + x b^T, y = h c, from the first token to the last."""
    state_BHPS = x_BNHP.new_zeros(*x_BNHP.shape[:1], *x_BNHP.shape[2:], b_BNS.shape[2])
    rows = []
    for i in range(x_BNHP.shape[1]):
        state_BHPS = kept_BNH[:, i, :, None, None] * state_BHPS + x_BNHP[:, i, ..., None] * b_BNS[:, i, None, None]
        rows.append((state_BHPS * c_BNS[:, i, None, None]).sum(3))
    return torch.stack(rows, 1)


def both_ways(x_BNHP: Tensor, kept_BNH: Tensor, b_BNS: Tensor, c_BNS: Tensor) -> Tensor:
    """The sum of both recurrences, with each token itself once."""
    forth = recurrence(x_BNHP, kept_BNH, b_BNS, c_BNS)
    back = recurrence(*(each.flip(1) for each in (x_BNHP, kept_BNH, b_BNS, c_BNS))).flip(1)
    return forth + back - (b_BNS * c_BNS).sum(2)[..., None, None] * x_BNHP


def naive(weights: Mapping[str, Tensor], x_BND: Tensor, config: Mamba2) -> Tensor:
    heads, inner, state = len(weights["D"]), weights["norm.weight"].shape[0], config.d_state
    z, xbc, step = affine(weights, "in_proj", x_BND).split([inner, inner + 2 * state, heads], 2)
    xbc = filtered(weights, "conv1d", xbc, config.kernel, config.causal)
    x, b, c = (xbc * torch.sigmoid(xbc)).split([inner, state, state], 2)
    x = x.unflatten(2, (heads, config.head_dim))
    step = (1 + (step + weights["dt_bias"]).exp()).log()
    kept = (-weights["A_log"].exp() * step).exp()
    y = (recurrence if config.causal else both_ways)(x * step[..., None], kept, b, c)
    y = (y + weights["D"][:, None] * x).flatten(2) * z * torch.sigmoid(z)
    y = y / (y.square().mean(2, keepdim=True) + 1e-5).sqrt() * weights["norm.weight"]
    return affine(weights, "out_proj", y)


@examples(15)
@given(configs, all_dims, st.integers(1, 2), lengths, st.integers(0, 99))
@example(Mamba2(head_dim=2), DIMS, 2, 2 * CHUNK + 3, 0)
@example(Mamba2(head_dim=2, causal=True), DIMS, 2, 2 * CHUNK + 3, 0)
def test_equals_the_naive_twin(config: Mamba2, dims: MixerDims, batch: int, length: int, seed: int) -> None:
    mixer = build(config, dims, seed)
    assert_parity(mixer, lambda w, x: naive(w, x, config), tokens(batch, length, dims, seed))


@examples(15)
@given(configs, lengths, st.data())
def test_a_token_sees_all_tokens_or_if_causal_the_earlier_ones(
    config: Mamba2, length: int, data: st.DataObject
) -> None:
    """By gradients: a NaN would meet the zero weights of its chunk."""
    i = data.draw(st.integers(0, length - 1))
    x_BND = tokens(1, length, DIMS, 0).requires_grad_()
    (gradient,) = torch.autograd.grad(build(config, DIMS, 0)(x_BND)[:, i].sum(), x_BND)
    last = i if config.causal else length - 1
    assert gradient[0].any(1).tolist() == [j <= last for j in range(length)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_strong_decay_over_segments_stays_finite(causal: bool, dtype: torch.dtype) -> None:
    """Steps that forget all at once, and steps that forget nothing, beside one another."""
    torch.manual_seed(0)
    length = SEGMENT["cpu"] + 2 * CHUNK + 2
    x, b, c = (torch.randn(1, length, *rest).to(dtype) for rest in ((2, 4), (3,), (3,)))
    log = -torch.tensor([0.0, 1e-6, 1e3, 1e6])[torch.randint(4, (1, length, 2))]
    log[:, 100:-100, 0] = 0.0
    leaves = [each.requires_grad_() for each in (x, log, b, c)]
    y = state_space(*leaves, causal=causal)
    exact = (recurrence if causal else both_ways)(x.double(), log.double().exp(), b.double(), c.double())
    scale = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    assert (y.double() - exact).norm() <= scale * exact.norm()
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(y.float().sum(), leaves))


@pytest.mark.parametrize("token", [0, 4, CHUNK + 1])
def test_a_causal_token_sees_those_up_to_itself(token: int) -> None:
    mixer = build(Mamba2(head_dim=2, causal=True), DIMS, 0)
    assert_receptive_field(mixer, tokens(1, CHUNK + 3, DIMS, 0), token, set(range(token + 1)))


def test_both_ways_a_token_sees_all() -> None:
    mixer = build(Mamba2(head_dim=2), DIMS, 0)
    assert_receptive_field(mixer, tokens(1, 7, DIMS, 0), 3, set(range(7)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", [1, 4, 70])
def test_tokens_in_segments_give_what_all_at_once_do(
    causal: bool, kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    mixer = Mamba2(head_dim=2, kernel=kernel, causal=causal).build(DIMS).double()
    x = torch.randn(2, 3 * CHUNK + 5, DIMS.dim, dtype=torch.float64)
    whole = mixer(x)
    monkeypatch.setitem(SEGMENT, "cpu", CHUNK)
    torch.testing.assert_close(mixer(x), whole, rtol=1e-12, atol=1e-12)


def test_half_precision_keeps_a_long_memory() -> None:
    """A state in bfloat16 would stop growing: it holds 8 binary digits."""
    step = torch.full((1, 8192, 1), 1e-4)
    x, b, c = torch.ones(1, 8192, 1, 16), torch.ones(1, 8192, 1), torch.ones(1, 8192, 1)
    exact = state_space((x * 1e-4).double(), -4 * step.double(), b.double(), c.double(), causal=True)
    found = state_space((x * 1e-4).bfloat16(), -4 * step, b.bfloat16(), c.bfloat16(), causal=True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=1e-4)


def test_costs_as_published() -> None:
    """Table 4 of the grafting paper, in % at 50, 75 and 100 % of the layers."""
    config = Mamba2(causal=True)
    with torch.device("meta"):
        old, new = (sum(p.numel() for p in each.build(DIT_XL_2).parameters()) for each in (FullAttention(), config))
    assert 100 * (new - old) / old == pytest.approx(56.05, abs=0.005)
    before, after = (each.flops_mixing(DIT_XL_2, 1, 256) for each in (FullAttention(), config))
    changes = [100 * part * (after - before) / before for part in (0.5, 0.75, 1)]
    assert changes == pytest.approx([-37.59, -56.38, -75.17], abs=0.005)


def test_flops_by_hand() -> None:
    n, d, e, s, h = 256, 1152, 2304, 64, 144
    linear = 2 * n * d * (2 * e + 2 * s + h) + 2 * n * e * d + 2 * n * (e + 2 * s) * 4
    assert Mamba2(causal=True).flops(DIT_XL_2, 1, n) == linear + n * (2 * e * s + 7 * h)
    assert Mamba2().flops(DIT_XL_2, 3, n) == 3 * (linear + n * (4 * e * s + 7 * h))


def attention(**options: object) -> Attention:
    torch.manual_seed(0)
    defaults: dict[str, object] = {"query_dim": 12, "heads": 3, "dim_head": 4, "bias": True}
    return Attention(**(defaults | options))


@pytest.mark.parametrize("state", [3, 4, 7])
def test_inherits_what_has_a_counterpart(state: int) -> None:
    old = attention()
    new = Mamba2(d_state=state, head_dim=3).build(dims_of(old))
    fresh = new.in_proj.weight.clone()
    new.inherit(old, "random")
    assert torch.equal(new.in_proj.weight, fresh)
    new.inherit(old, "projections")
    z, x, b, c, step = new.in_proj.weight.split([24, 24, state, state, 8])
    kept = min(4, state)
    assert torch.equal(x[:12], old.to_v.weight)
    for taken, source in ((b, old.to_k), (c, old.to_q)):
        heads = source.weight.view(3, 4, 12)
        torch.testing.assert_close(taken[:kept], ((heads[0] + heads[1] + heads[2]) / 3)[:kept])
    assert torch.equal(new.out_proj.weight, torch.cat([old.to_out[0].weight, torch.zeros(12, 12)], 1))
    rest = torch.cat([z, x[12:], b[kept:], c[kept:], step])
    parts = fresh.split([24, 24, state, state, 8])
    assert torch.equal(rest, torch.cat([parts[0], parts[1][12:], parts[2][kept:], parts[3][kept:], parts[4]]))
    tokens_BNC = torch.randn(2, 5, 24 + 2 * state)
    assert torch.equal(new.conv1d(tokens_BNC), tokens_BNC)


def test_refuses_an_attention_that_does_not_fit() -> None:
    new = Mamba2(expand=1, head_dim=3).build(dims_of(attention()))
    for other in (attention(dim_head=8), attention(query_dim=9)):
        with pytest.raises(RewriteError, match=r"dims_of\(attention\)"):
            new.inherit(other, "projections")


def test_heads_must_fill_the_inner_width() -> None:
    with pytest.raises(RewriteError, match="head_dim=5 does not divide the inner width 16"):
        Mamba2(head_dim=5).build(DIMS)


@pytest.mark.parametrize("bad", [{"d_state": 0}, {"expand": 1.5}, {"state": 4}, {"kind": "mamba"}])
def test_refuses_a_bad_config(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Mamba2.model_validate(bad)


@given(configs)
def test_goes_to_plain_data_and_back(config: Mamba2) -> None:
    assert operator_from_data(config.model_dump(mode="json")) == config
