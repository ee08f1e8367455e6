from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surgery.operators import FullAttention, MixerDims
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import attention


@examples(20)
@given(all_dims, st.integers(1, 3), st.integers(1, 12), st.integers(0, 99))
def test_equals_the_naive_twin(dims: MixerDims, batch: int, length: int, seed: int) -> None:
    seen = [set(range(length))] * length
    mixer = build(FullAttention(), dims, seed)
    assert_parity(mixer, lambda w, x: attention(w, x, dims, seen), tokens(batch, length, dims, seed))


def test_sees_every_token() -> None:
    dims = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
    assert_receptive_field(build(FullAttention(), dims, 0), tokens(2, 5, dims, 0), 2, set(range(5)))
