"""Sparse and linear attention against loops. Shape legend as in surgery/operators/sparse_linear.py."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from surgery.operators import FullAttention, MixerDims, SparseLinear, operator_from_data
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import affine, attend, attend_linearly

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)


def chosen(q_NK: Tensor, k_NK: Tensor, block: int, top: int) -> list[list[set[int]]]:
    """For each query the keys that softmax sees, and all others."""
    spans = [list(range(start, min(start + block, len(q_NK)))) for start in range(0, len(q_NK), block)]
    near, far = [], []
    for span in spans:
        means = [(q_NK[span].mean(0) @ k_NK[keys].mean(0)).item() for keys in spans]
        best = sorted(range(len(spans)), key=lambda s: -means[s])[:top]
        seen = {j for s in best for j in spans[s]}
        near += [seen] * len(span)
        far += [set(range(len(q_NK))) - seen] * len(span)
    return [near, far]


def naive(weights: Mapping[str, Tensor], x_BND: Tensor, dims: MixerDims, config: SparseLinear) -> Tensor:
    q, k, v = (
        affine(weights, name, x_BND).unflatten(2, (-1, dims.head_dim)).transpose(1, 2)
        for name in ("to_q", "to_k", "to_v")
    )
    samples = []
    for b in range(len(q)):
        heads = []
        for h in range(dims.heads):
            one = [x[b : b + 1, h : h + 1] for x in (q, k, v)]
            near, far = chosen(q[b, h], k[b, h], config.block, config.top)
            y = attend(*one, [near])[0, 0]
            phi_q, phi_k = (x.exp() / x.exp().sum(3, keepdim=True) for x in one[:2])
            rest = [
                attend_linearly(phi_q[:, :, i : i + 1], phi_k[:, :, sorted(far[i])], one[2][:, :, sorted(far[i])])[0, 0]
                for i in range(len(far))
            ]
            heads.append(y + torch.cat(rest) @ weights["core.project"][h])
        samples.append(torch.cat(heads, 1))
    return affine(weights, "to_out.0", torch.stack(samples))


@examples(10)
@given(st.integers(1, 4), st.integers(1, 3), all_dims, st.integers(1, 5), st.integers(0, 99))
@example(2, 2, DIMS, 5, 0)
def test_equals_the_naive_twin(block: int, top: int, dims: MixerDims, others: int, seed: int) -> None:
    """In float64 alone: rounded means may choose other blocks."""
    config = SparseLinear(block=block, top=top)
    mixer = build(config, dims, seed)
    torch.nn.init.normal_(mixer.core.project)
    x_BND = tokens(2, block * top + others, dims, seed)
    assert_parity(mixer, lambda w, x: naive(w, x, dims, config), x_BND, dtypes=[torch.float64])


def test_starts_as_softmax_over_the_chosen_blocks_and_learns_the_rest() -> None:
    q, k, v = (torch.randn(1, 2, 12, 4) for _ in range(3))
    core = SparseLinear(block=4, top=1).core(DIMS)
    y = core(q, k, v)
    for h in range(2):
        near, _ = chosen(q[0, h], k[0, h], 4, 1)
        torch.testing.assert_close(y[:, h : h + 1], attend(q[:, h : h + 1], k[:, h : h + 1], v[:, h : h + 1], [near]))
    y.square().sum().backward()
    assert core.project.grad.abs().sum() > 0


def test_is_full_attention_as_long_as_all_blocks_are_chosen() -> None:
    q, k, v = (torch.randn(1, 2, 12, 4) for _ in range(3))
    assert torch.equal(SparseLinear(block=4, top=3).core(DIMS)(q, k, v), FullAttention().core(DIMS)(q, k, v))
    assert SparseLinear(block=4, top=3).flops(DIMS, 2, 12) == FullAttention().flops(DIMS, 2, 12)


def test_sees_every_token() -> None:
    mixer = build(SparseLinear(block=3, top=1), DIMS, 0)
    assert_receptive_field(mixer, tokens(1, 10, DIMS, 0), 4, set(range(10)))


def test_many_blocks_are_those_of_few_at_a_time() -> None:
    """More blocks than are gathered together, the last of which is short."""
    q, k, v = (torch.randn(1, 2, 139, 4) for _ in range(3))
    core = SparseLinear(block=4, top=2).core(DIMS)
    y = core(q, k, v)
    near, _ = chosen(q[0, 1], k[0, 1], 4, 2)
    torch.testing.assert_close(y[:, 1:], attend(q[:, 1:], k[:, 1:], v[:, 1:], [near]))


def test_costs_a_fixed_number_of_keys_for_each_query() -> None:
    config = SparseLinear(block=64, top=4)
    pairs = 4 * 64 * (4 * DIMS.inner + 3 * DIMS.heads)
    assert config.flops_mixing(DIMS, 1, 4096) > 4096 * pairs
    assert config.flops_mixing(DIMS, 1, 2**16) < FullAttention().flops_mixing(DIMS, 1, 2**16) / 20
    assert config.core(DIMS).flops(2, 999) == config.flops(DIMS, 2, 999) - config.flops_projections(DIMS, 2, 999)
    assert operator_from_data(config.model_dump(mode="json")) == config
