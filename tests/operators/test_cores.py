"""Cores: what stands where an attention calls `scaled_dot_product_attention`."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surgery.errors import RewriteError
from surgery.operators import (
    FullAttention,
    FullAttentionCore,
    GroupedQueryAttention,
    HyenaSE,
    HyenaX,
    HyenaY,
    LinearAttention,
    Mamba2,
    MixerConfig,
    SlidingWindow,
)
from tests.nightly import examples
from tests.operators.mixers import ANY_KEYS, DIMS, EVERY, ONE_STREAM, PROJECTED
from tests.operators.parity import build, tokens
from tests.operators.twins import attend, attend_linearly, features, window_seen
from tests.rewriting.operators import Scale


def heads(queries: int, keys: int, seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k and v in float64."""
    made = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, 3, count, 4, generator=made).double() for count in (queries, keys, keys))
    return q, k, v


@pytest.mark.parametrize("config", PROJECTED)
def test_a_mixer_is_its_core_between_projections(config: MixerConfig) -> None:
    mixer, core = build(config, DIMS, 0), config.core(DIMS).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter)
    weights = mixer.state_dict()
    core.load_state_dict({name: weights.get(f"core.{name}", weights.get(name)) for name in core.state_dict()})
    x = tokens(2, 9, DIMS, 0)
    if hasattr(mixer, "in_proj"):
        qkv, out = mixer.in_proj(x).chunk(3, dim=2), mixer.out_proj
    else:
        qkv, out = [project(x) for project in (mixer.to_q, mixer.to_k, mixer.to_v)], mixer.to_out[0]
    y_BHNK = core(*(each.unflatten(2, (-1, 4)).transpose(1, 2) for each in qkv))
    assert y_BHNK.shape == (2, 3, 9, 4)
    torch.testing.assert_close(out(y_BHNK.transpose(1, 2).flatten(2)), mixer(x))


@pytest.mark.parametrize("config", EVERY)
def test_keeps_the_dtype_and_runs_without_weights(config: MixerConfig) -> None:
    q, k, v = heads(9, 9)
    assert config.core(DIMS).bfloat16()(q.bfloat16(), k.bfloat16(), v.bfloat16()).dtype == torch.bfloat16
    with torch.device("meta"):
        assert config.core(DIMS)(*(torch.empty(2, 3, 81, 4) for _ in range(3))).shape == (2, 3, 81, 4)


@pytest.mark.parametrize("config", EVERY)
def test_takes_heads_that_were_cast_up(config: MixerConfig) -> None:
    core, (q, k, v) = config.core(DIMS).float(), heads(9, 9)
    assert core(q, k, v).dtype == torch.float64
    core(q.requires_grad_(), k, v).sum().backward()
    expected = core(q.float(), k.float(), v.float()).double()
    torch.testing.assert_close(core(q, k, v), expected, rtol=1e-4, atol=1e-4)
    if core.takes_mask and not core.mixes_any_dtype:
        mask = torch.zeros(1, 1, 1, 9).double().masked_fill(torch.arange(9) > 5, -1e6)
        torch.testing.assert_close(core(q, k, v, mask), core(q, k, v, mask > -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", PROJECTED)
def test_counts_as_its_mixer_without_projections(config: MixerConfig) -> None:
    core, mixer = config.core(DIMS), config.build(DIMS)
    assert core.flops(2, 81) == mixer.flops(2, 81) - config.flops_projections(DIMS, 2, 81)
    assert core.flops_mixing(2, 81) == mixer.flops_mixing(2, 81)


@pytest.mark.parametrize("config", [HyenaSE(), HyenaX(causal=True), HyenaY(kernel=3, axes=2)])
def test_filters_start_as_the_identity(config: MixerConfig) -> None:
    q, k, v = heads(9, 9)
    torch.testing.assert_close(config.core(DIMS).double()(q, k, v), q * k * v)


@pytest.mark.parametrize("config", ANY_KEYS)
@pytest.mark.parametrize("keys", [1, 5, 8])
def test_serves_cross_attention(config: MixerConfig, keys: int) -> None:
    q, k, v = heads(6, keys)
    core = config.core(DIMS).double()
    if isinstance(config, LinearAttention):
        weights = {name: weight.detach() + 0.1 for name, weight in core.named_parameters()}
        core.load_state_dict(weights)
        keys_BHMK = k - k.mean(2, keepdim=True) if config.centre else k
        expected = attend_linearly(features(weights, "phi_q", q), features(weights, "phi_k", keys_BHMK), v)
    else:
        shared = isinstance(config, GroupedQueryAttention)
        k, v = (x.mean(1, keepdim=True).expand(-1, 3, -1, -1) if shared else x for x in (k, v))
        expected = attend(q, k, v, [[set(range(keys))] * 6] * 2)
    torch.testing.assert_close(core(q, k, v), expected)


@pytest.mark.parametrize("config", ONE_STREAM)
def test_refuses_cross_attention(config: MixerConfig) -> None:
    with pytest.raises(RewriteError, match="9 queries and 4 keys"):
        config.core(DIMS).double()(*heads(9, 4))


def test_refuses_a_mask_that_it_cannot_use() -> None:
    class Maskless(FullAttentionCore):
        takes_mask = False

    with pytest.raises(RewriteError, match="Maskless: is called with a mask"):
        Maskless(FullAttention(), DIMS)(*heads(9, 9), attn_mask=torch.ones(9, 9, dtype=torch.bool))


@pytest.mark.parametrize("config", [FullAttention(), GroupedQueryAttention(groups=3)])
@pytest.mark.parametrize("additive", [False, True])
def test_full_attention_takes_any_mask(config: MixerConfig, additive: bool) -> None:
    q, k, v = heads(6, 8)
    mask = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)) < 0.7
    given_mask = torch.zeros(mask.shape).double().masked_fill(~mask, -torch.inf) if additive else mask
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(config.core(DIMS).double()(q, k, v, given_mask), expected)


# One and two chunks; the shapes that broadcast to (B, H, N, M).
shapes = st.sampled_from([(2, 1, 1, 0), (2, 1, 0, 0), (1, 3, 0, 0), (2, 3, 1, 0), (1, 1, 0, 1), (0, 0), (1, 0)])


@examples(15)
@given(st.sampled_from([1, 7, 64, 70]), st.integers(0, 5), st.booleans(), shapes, st.integers(0, 99))
def test_a_window_within_a_mask(length: int, window: int, causal: bool, shape: tuple[int, ...], seed: int) -> None:
    q, k, v = (x.requires_grad_() for x in heads(length, length, seed))
    drawn = torch.rand([size or length for size in shape], generator=torch.Generator().manual_seed(seed)) < 0.7
    mask = drawn.expand(2, 3, length, length)
    y = SlidingWindow(window=window, causal=causal).core(DIMS)(q, k, v, attn_mask=drawn)
    inside = [window_seen(i, length, window, causal) for i in range(length)]
    for head in range(3):
        seen = [[{j for j in js if mask[b, head, i, j]} for i, js in enumerate(inside)] for b in range(2)]
        expected = attend(q[:, [head]], k[:, [head]], v[:, [head]], seen)
        torch.testing.assert_close(y[:, [head]], expected)
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(y.square().sum(), (q, k, v)))


def test_an_operator_without_a_core_says_so() -> None:
    with pytest.raises(RewriteError, match="Scale has no core"):
        Scale().core(DIMS)


def scanned(weights: dict[str, Tensor], q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The core of Mamba-2 by its recurrence, token by token, forth and back; filters as the identity."""
    step = torch.log1p(torch.exp((k * weights["dt_weight"][:, None]).sum(3) + weights["dt_bias"][:, None]))
    kept = torch.exp(-step * weights["A_log"].exp()[:, None])

    def recurrence(order: list[int], reads_itself: bool) -> dict[int, Tensor]:
        state, found = torch.zeros(*v.shape[:2], v.shape[3], k.shape[3], dtype=v.dtype), {}
        for i in order:
            before = state
            own = (step[:, :, i, None] * v[:, :, i])[..., None] * k[:, :, i, None]
            if reads_itself:
                state = kept[:, :, i, None, None] * before + own
                read = state
            else:
                read = kept[:, :, i, None, None] * before
                state = read + own
            found[i] = (read * q[:, :, i, None]).sum(3) / math.sqrt(q.shape[3])
        return found

    forth = recurrence(list(range(v.shape[2])), True)
    back = {} if causal else recurrence(list(range(v.shape[2]))[::-1], False)
    y = torch.stack([forth[i] + back.get(i, 0.0) for i in range(v.shape[2])], 2) + weights["D"][:, None, None] * v
    return y / (y.square().mean(3, keepdim=True) + 1e-5).sqrt() * weights["norm.weight"]


@examples(20)
@given(st.booleans(), st.sampled_from([1, 2, 31, 32, 33, 70]), st.integers(0, 99))
def test_mamba_2_scans_keys_and_values(causal: bool, length: int, seed: int) -> None:
    torch.manual_seed(seed)
    core = Mamba2(causal=causal).core(DIMS).double()
    torch.nn.init.normal_(core.dt_weight)
    q, k, v = (each.requires_grad_() for each in heads(length, length, seed))
    weights = {name: value.detach().clone().requires_grad_() for name, value in core.named_parameters()}
    found, expected = core(q, k, v), scanned(weights, q, k, v, causal)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    probe = torch.randn_like(found)
    learned = [name for name in weights if not name.startswith("conv1d")]
    ours = torch.autograd.grad((found * probe).sum(), [q, k, v, *(core.get_parameter(name) for name in learned)])
    naive = torch.autograd.grad((expected * probe).sum(), [q, k, v, *(weights[name] for name in learned)])
    torch.testing.assert_close(ours, naive, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("causal", [False, True])
def test_the_core_of_mamba_2_by_hand(causal: bool) -> None:
    core = Mamba2(causal=causal).core(DIMS)
    mixing = 2 * 81 * ((1 if causal else 2) * 2 * 12 * 4 + 7 * 3)
    assert core.flops_mixing(2, 81) == mixing
    assert core.flops(2, 81) == mixing + 2 * 81 * (3 * 12 * 2 * 4 + 2 * 12)
    q, k, v = heads(9, 9)
    assert core.bfloat16()(q.bfloat16(), k.bfloat16(), v.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(RewriteError, match="9 queries and 4 keys"):
        core.double()(*heads(9, 4))
    v[:, :, 5] = torch.nan
    spoilt = torch.isnan(core.double()(q, k, v)).all(3).all(1).all(0).tolist()
    assert spoilt == [i >= 5 or not causal for i in range(9)]
