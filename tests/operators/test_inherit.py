"""Operators take over the weights of a diffusers attention."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surgery.errors import RewriteError
from surgery.operators import (
    FullAttention,
    GroupedQueryAttention,
    HyenaSE,
    HyenaX,
    HyenaY,
    LinearAttention,
    MixerConfig,
    NeighbourhoodAttention,
    SlidingWindow,
    dims_of,
    projections_of,
)
from tests.nightly import examples
from tests.operators.mixers import EVERY, PROJECTED


def attention(**options: object) -> Attention:
    torch.manual_seed(0)
    defaults: dict[str, object] = {"query_dim": 12, "heads": 3, "dim_head": 8, "bias": True}
    return Attention(**(defaults | options)).eval()


@examples(20)
@given(st.integers(1, 70), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_a_window_over_everything_is_the_old_attention(
    length: int, bias: bool, out_bias: bool, fused: bool, full: bool
) -> None:
    old = attention(bias=bias, out_bias=out_bias)
    x = torch.randn(2, length, 12)
    if fused:
        with torch.no_grad():
            old.fuse_projections()
            del old.to_q, old.to_k, old.to_v
    config = FullAttention() if full else SlidingWindow(window=length)
    new = config.build(dims_of(old))
    before = new(x)
    new.inherit(old, "projections")
    plain = attention(bias=bias, out_bias=out_bias)
    torch.testing.assert_close(new(x), plain(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before, plain(x), atol=1e-4)


def test_softmax_mixers_keep_the_names_of_the_weights() -> None:
    old = attention()
    new = SlidingWindow().build(dims_of(old))
    new.inherit(old, "projections")
    assert new.state_dict().keys() == old.state_dict().keys()
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())


@pytest.mark.parametrize("config", [HyenaSE(), HyenaX(), HyenaY()])
def test_hyena_starts_as_the_gated_projections(config: MixerConfig) -> None:
    old = attention()
    new = config.build(dims_of(old))
    new.inherit(old, "projections")
    x = torch.randn(2, 9, 12)
    expected = old.to_out[0](old.to_q(x) * old.to_k(x) * old.to_v(x))
    torch.testing.assert_close(new(x), expected)
    # The order shows only once the filter is trained: a product of three does not tell it.
    stacked = torch.cat([old.to_q.weight, old.to_k.weight, old.to_v.weight])
    assert torch.equal(new.in_proj.weight, stacked)


@pytest.mark.parametrize("config", EVERY)
@pytest.mark.parametrize("policy", ["random", "projections"])
def test_inheriting_reads_the_old_weights_and_shares_none(config: MixerConfig, policy: str) -> None:
    old = attention()
    before = {name: value.clone() for name, value in old.state_dict().items()}
    new = config.build(dims_of(old))
    fresh = {name: value.clone() for name, value in new.state_dict().items()}
    new.inherit(old, policy)  # type: ignore[arg-type]
    unchanged = all(torch.equal(value, fresh[name]) for name, value in new.state_dict().items())
    assert unchanged == (policy == "random")
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())


def test_an_unknown_policy_is_refused() -> None:
    old = attention()
    with pytest.raises(RewriteError, match="'some'"):
        HyenaX().build(dims_of(old)).inherit(old, "some")  # type: ignore[arg-type]


EXACT = [FullAttention(), NeighbourhoodAttention(window=5, grid=(3, 5)), GroupedQueryAttention(groups=3)]
INEXACT = [
    (HyenaSE(), "hyena_se mixes the tokens in another way"),
    (LinearAttention(), "linear_attention mixes"),
    (SlidingWindow(window=1000), "sliding_window mixes"),
    (NeighbourhoodAttention(window=101), "a window of 101 does not cover every square"),
    (NeighbourhoodAttention(window=3, grid=(3, 5)), r"a window of 3 does not cover the grid \(3, 5\)"),
    (GroupedQueryAttention(groups=1), "the heads of to_k differ within a group"),
]


@pytest.mark.parametrize("config", EXACT)
def test_exact_keeps_the_function(config: MixerConfig) -> None:
    old = attention()
    new = config.build(dims_of(old))
    new.inherit(old, "exact")
    x = torch.randn(2, 15, 12)
    torch.testing.assert_close(new(x), old(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("config", "reason"), INEXACT)
def test_exact_is_refused_with_the_reason(config: MixerConfig, reason: str) -> None:
    old = attention()
    new = config.build(dims_of(old))
    fresh = {name: value.clone() for name, value in new.state_dict().items()}
    with pytest.raises(RewriteError, match=f"cannot keep the function of the old attention: {reason}"):
        new.inherit(old, "exact")
    assert all(torch.equal(value, fresh[name]) for name, value in new.state_dict().items())


def test_exact_refuses_an_attention_that_does_more_than_attend() -> None:
    old = attention(qk_norm="rms_norm")
    with pytest.raises(RewriteError, match="norm_q"):
        FullAttention().build(dims_of(old)).inherit(old, "exact")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"qk_norm": "rms_norm"}, "norm_q, norm_k"),
        ({"residual_connection": True}, "residual_connection"),
        ({"rescale_output_factor": 2.0}, "rescale_output_factor"),
        ({"scale_qk": False}, "scale_qk"),
        ({"norm_num_groups": 3}, "group_norm"),
    ],
)
def test_softmax_mixers_refuse_weights_that_would_mean_something_else(options: dict[str, object], named: str) -> None:
    old = attention(**options)
    for config in (FullAttention(), SlidingWindow(), LinearAttention(), GroupedQueryAttention(groups=3)):
        with pytest.raises(RewriteError, match=named):
            config.build(dims_of(old)).inherit(old, "projections")


class Wrapped(nn.Module):
    """An adapter around a linear layer; what it computes is not in the weight."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias


def test_an_attention_without_readable_projections_is_refused() -> None:
    adapted = attention()
    adapted.to_k = Wrapped(adapted.to_k)
    odd = attention()
    odd.to_qkv = nn.Linear(12, 70)
    odd.fused_projections = True
    cases = [
        (nn.Linear(4, 4), "no to_out"),
        (adapted, "to_k is a Wrapped"),
        (odd, "70 rows"),
        (attention(kv_heads=1), "as many key heads"),
        (attention(cross_attention_dim=20), "self-attention"),
    ]
    for module, words in cases:
        with pytest.raises(RewriteError, match=words):
            projections_of(module)


def test_dims_need_a_usable_number_of_heads() -> None:
    for heads in (None, 0, 7):
        old = attention()
        old.heads = heads
        with pytest.raises(RewriteError, match="heads"):
            dims_of(old)


@pytest.mark.parametrize("config", PROJECTED)
def test_weights_of_another_size_are_refused(config: MixerConfig) -> None:
    for other in (attention(query_dim=16), attention(bias=False), attention(dim_head=4)):
        with pytest.raises(RewriteError, match=r"dims_of\(attention\)"):
            config.build(dims_of(attention())).inherit(other, "projections")
