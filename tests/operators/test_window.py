from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.operators import MixerDims, SlidingWindow
from surgery.operators.window import windowed_attention
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import attention, window_seen

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
# Chunks hold 64 tokens: lengths and windows lie on both sides of one and two chunks.
lengths = st.one_of(st.integers(1, 9), st.sampled_from([63, 64, 65, 127, 128, 129]))
windows = st.one_of(st.integers(0, 9), st.sampled_from([63, 64, 65, 70, 1000]))
configs = st.builds(SlidingWindow, window=windows, causal=st.booleans())


@examples(15)
@given(configs, all_dims, st.integers(1, 3), lengths, st.integers(0, 99))
@example(SlidingWindow(window=70), DIMS, 2, 129, 0)
@example(SlidingWindow(window=4, causal=True), DIMS, 2, 129, 0)
def test_equals_the_naive_twin(config: SlidingWindow, dims: MixerDims, batch: int, length: int, seed: int) -> None:
    seen = [window_seen(i, length, config.window, config.causal) for i in range(length)]
    assert_parity(
        build(config, dims, seed),
        lambda w, x: attention(w, x, dims, seen),
        tokens(batch, length, dims, seed),
    )


@examples(20)
@given(st.builds(SlidingWindow, window=st.integers(0, 6), causal=st.booleans()), lengths, st.data())
def test_sees_its_window_and_nothing_else(config: SlidingWindow, length: int, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, length - 1))
    seen = window_seen(i, length, config.window, config.causal)
    assert_receptive_field(build(config, DIMS, 0), tokens(2, length, DIMS, 0), i, seen)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_a_key_that_is_not_finite_spoils_its_window_alone(bad: float) -> None:
    q, k, v = (torch.randn(1, 100, 8) for _ in range(3))
    k[0, 50, 3] = bad
    y = windowed_attention(q, k, v, heads=2, window=3, causal=False)
    spoilt = torch.isnan(y).any(2)[0].nonzero().flatten().tolist()
    assert spoilt == list(range(47, 54))


def test_a_long_sequence_needs_no_square_mask() -> None:
    """2^20 tokens: a mask of all pairs would take a terabyte."""
    q, k, v = (torch.ones(1, 2**20, 2) for _ in range(3))
    assert torch.allclose(windowed_attention(q, k, v, heads=1, window=4, causal=False), v)


@pytest.mark.parametrize("bad", [{"window": -1}, {"windows": 4}, {"kind": "hyena_x"}])
def test_refuses_a_bad_config(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SlidingWindow.model_validate(bad)
