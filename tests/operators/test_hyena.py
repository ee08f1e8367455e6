from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.operators import HyenaX, MixerDims
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import hyena_x, kernel_seen

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
configs = st.builds(HyenaX, kernel=st.integers(1, 9), causal=st.booleans())


@settings(max_examples=40, deadline=None)
@given(configs, all_dims, st.integers(1, 3), st.integers(1, 20), st.integers(0, 99))
def test_equals_the_naive_twin(config: HyenaX, dims: MixerDims, batch: int, length: int, seed: int) -> None:
    mixer = build(config, dims, seed)
    assert_parity(mixer, lambda w, x: hyena_x(w, x, config.kernel, config.causal), tokens(batch, length, dims, seed))


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(1, 20), st.data())
def test_sees_its_kernel_and_nothing_else(config: HyenaX, length: int, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, length - 1))
    seen = {j for j in kernel_seen(i, length, config.kernel, config.causal) if 0 <= j < length}
    assert_receptive_field(build(config, DIMS, 0), tokens(2, length, DIMS, 0), i, seen)


@given(st.integers(1, 40))
def test_centred_filter_is_even_or_one_longer_on_the_right(kernel: int) -> None:
    conv = build(HyenaX(kernel=kernel), DIMS, 0).conv
    assert conv.left + conv.right == kernel - 1
    assert conv.right - conv.left == (kernel + 1) % 2


def test_causal_filter_has_no_right_side() -> None:
    assert build(HyenaX(kernel=4, causal=True), DIMS, 0).conv.right == 0


@pytest.mark.parametrize("causal", [False, True])
def test_filter_that_starts_as_identity_returns_its_input(causal: bool) -> None:
    conv = build(HyenaX(kernel=4, causal=causal), DIMS, 0).conv
    x = torch.randn(2, 7, 24).double()
    assert not torch.equal(conv(x), x)
    conv.start_as_identity()
    assert torch.equal(conv(x), x)


@pytest.mark.parametrize("bad", [{"kernel": 0}, {"kernel": -3}, {"kernal": 4}, {"kind": "hyena_y"}])
def test_refuses_a_bad_config(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HyenaX.model_validate(bad)
