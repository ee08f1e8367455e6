from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from surgery.errors import RewriteError
from surgery.operators import GroupedQueryAttention, MixerDims, dims_of
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import attention

DIMS = MixerDims(dim=8, heads=6, head_dim=4, qkv_bias=True, out_bias=True)


@examples(20)
@given(all_dims, st.sampled_from([1, 2, 3]), st.integers(1, 2), st.integers(1, 9), st.integers(0, 99))
def test_equals_the_naive_twin(dims: MixerDims, groups: int, share: int, length: int, seed: int) -> None:
    dims = dims.model_copy(update={"heads": groups * share})
    mixer = build(GroupedQueryAttention(groups=groups), dims, seed)
    assert mixer.to_k.out_features == mixer.to_v.out_features == groups * dims.head_dim
    seen = [set(range(length))] * length
    assert_parity(mixer, lambda w, x: attention(w, x, dims, seen, groups), tokens(2, length, dims, seed))


def test_sees_every_token() -> None:
    mixer = build(GroupedQueryAttention(groups=2), DIMS, 0)
    assert_receptive_field(mixer, tokens(2, 5, DIMS, 0), 2, set(range(5)))


def with_equal_heads(groups: int, bias: bool) -> Attention:
    """An attention of 6 heads whose key and value heads are equal within each group."""
    torch.manual_seed(0)
    old = Attention(query_dim=8, heads=6, dim_head=4, bias=bias).double().eval()
    with torch.no_grad():
        for linear in (old.to_k, old.to_v):
            for rows in (linear.weight, linear.bias) if bias else (linear.weight,):
                heads = rows.view(groups, 6 // groups, 4, -1)
                heads.copy_(heads[:, :1].expand_as(heads).clone())
    return old


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("policy", ["projections", "exact"])
def test_equal_heads_are_inherited_without_a_change(groups: int, bias: bool, policy: str) -> None:
    old = with_equal_heads(groups, bias)
    new = GroupedQueryAttention(groups=groups).build(dims_of(old)).double()
    new.inherit(old, policy)  # type: ignore[arg-type]
    x = torch.randn(2, 7, 8).double()
    torch.testing.assert_close(new(x), old(x), rtol=1e-12, atol=1e-12)


def test_other_heads_are_averaged_within_their_group() -> None:
    old = Attention(query_dim=8, heads=6, dim_head=4, bias=True).double()
    new = GroupedQueryAttention(groups=2).build(dims_of(old)).double()
    new.inherit(old, "projections")
    for name in ("to_k", "to_v"):
        heads = getattr(old, name).weight.view(6, 4, 8)
        expected = torch.cat([(heads[0] + heads[1] + heads[2]) / 3, (heads[3] + heads[4] + heads[5]) / 3])
        torch.testing.assert_close(getattr(new, name).weight, expected)


@pytest.mark.parametrize("name", ["to_k", "to_v"])
def test_one_other_bias_is_no_longer_exact(name: str) -> None:
    old = with_equal_heads(2, bias=True)
    with torch.no_grad():
        getattr(old, name).bias[5] += 1e-6
    with pytest.raises(RewriteError, match=f"the heads of {name} differ within a group"):
        GroupedQueryAttention(groups=2).build(dims_of(old)).inherit(old, "exact")


@pytest.mark.parametrize("make", [GroupedQueryAttention.build, GroupedQueryAttention.core])
def test_groups_that_do_not_divide_the_heads_are_refused(make: object) -> None:
    with pytest.raises(RewriteError, match="4 groups do not divide 6 heads"):
        make(GroupedQueryAttention(groups=4), DIMS)  # type: ignore[operator]


@pytest.mark.parametrize("policy", ["projections", "exact"])
def test_rows_that_do_not_make_up_the_heads_are_refused(policy: str) -> None:
    old = nn.Module()
    old.to_q, old.to_k, old.to_v = (nn.Linear(8, 10) for _ in range(3))
    old.to_out = nn.Linear(10, 8)
    with pytest.raises(RewriteError, match=r"dims_of\(attention\)"):
        GroupedQueryAttention(groups=3).build(DIMS).inherit(old, policy)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"groups": 0}, {}, {"groups": 2, "heads": 4}])
def test_refuses_a_bad_config(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GroupedQueryAttention.model_validate(bad)
