from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.errors import RewriteError
from surgery.operators import MixerDims, NeighbourhoodAttention
from surgery.operators.tiles import neighbourhood_attention
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import attention, neighbourhood_seen

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
# Tiles hold 8 tokens along each axis of a picture and 4 of a video: sizes lie on both sides of one and two tiles.
grids = st.one_of(
    st.tuples(st.sampled_from([1, 2, 7, 8, 9, 17]), st.sampled_from([1, 3, 6, 10])),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.sampled_from([1, 4, 5, 9])),
)
windows = st.sampled_from([1, 3, 5, 7, 9, 13, 1001])


@examples(15)
@given(grids, windows, all_dims, st.integers(1, 2), st.integers(0, 99))
@example((17, 9), 5, DIMS, 2, 0)
@example((19, 1), 17, DIMS, 1, 0)
@example((2, 9, 9), 3, DIMS, 2, 0)
def test_equals_the_naive_twin(grid: tuple[int, ...], window: int, dims: MixerDims, batch: int, seed: int) -> None:
    seen = neighbourhood_seen(grid, window)
    mixer = build(NeighbourhoodAttention(window=window, grid=grid), dims, seed)
    assert_parity(mixer, lambda w, x: attention(w, x, dims, seen), tokens(batch, math.prod(grid), dims, seed))


@examples(20)
@given(grids, windows, st.data())
def test_sees_its_neighbourhood_and_nothing_else(grid: tuple[int, ...], window: int, data: st.DataObject) -> None:
    length = math.prod(grid)
    i = data.draw(st.integers(0, length - 1))
    mixer = build(NeighbourhoodAttention(window=window, grid=grid), DIMS, 0)
    assert_receptive_field(mixer, tokens(2, length, DIMS, 0), i, neighbourhood_seen(grid, window)[i])


@pytest.mark.parametrize("text", [0, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_portions_of_tiles_change_no_bit(text: int, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 17 * 9 + text
    mixer = build(NeighbourhoodAttention(window=5, grid=(17, 9), text="last" if text else None), DIMS, 0)
    q, k, v = tokens(3, length, DIMS, 0).view(3, length, 2, 4).transpose(1, 2).unsqueeze(0).expand(3, -1, -1, -1, -1)
    mask = (torch.arange(length) % 7 > 0).expand(3, 1, length, length) if masked else None
    whole = mixer.core(q, k, v, mask)
    monkeypatch.setattr("surgery.operators.tiles.PORTION", 1)
    assert torch.equal(mixer.core(q, k, v, mask), whole)


dilated = st.one_of(
    st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(*[st.integers(1, 5)] * 3)
)


@examples(20)
@given(dilated, st.sampled_from([1, 3, 5]), st.integers(1, 4), st.sampled_from([None, "first", "last"]), all_dims)
def test_a_dilated_window_equals_the_naive_twin(
    grid: tuple[int, ...], window: int, dilation: int, text: str | None, dims: MixerDims
) -> None:
    others = 2 if text and len(grid) > 1 else 0
    layout = {"axes": 1} if len(grid) == 1 else {"grid": grid, "text": text}
    mixer = build(NeighbourhoodAttention(window=window, dilation=dilation, **layout), dims, 0)
    near, image = neighbourhood_seen(grid, window, dilation), math.prod(grid)
    shift, everything = others if text == "first" else 0, set(range(image + others))
    beside = everything - set(range(shift, shift + image))
    seen = [{j + shift for j in js} | beside for js in near]
    rows = [everything] * others + seen if text == "first" else seen + [everything] * others
    x = tokens(2, image + others, dims, 0)
    assert_parity(mixer, lambda w, given: attention(w, given, dims, rows), x)
    assert_receptive_field(mixer, x, shift + image // 2, rows[shift + image // 2])


@pytest.mark.parametrize(("grid", "dilation"), [((16, 16), 3), ((4, 8, 8), 2), (None, 5)])
def test_a_dilated_window_costs_the_pairs_that_see_each_other(grid: tuple[int, ...] | None, dilation: int) -> None:
    config = NeighbourhoodAttention(window=3, dilation=dilation, grid=grid)
    pairs = sum(map(len, neighbourhood_seen(grid or (16, 16), 3, dilation)))
    assert config.flops_mixing(DIMS, 2, 256) == 2 * pairs * (4 * DIMS.inner + 3 * DIMS.heads)


def test_the_window_is_shifted_inward_at_the_borders() -> None:
    """A corner, an edge and the middle of 5 x 5, by hand."""
    mixer = build(NeighbourhoodAttention(window=3), DIMS, 0)
    x = tokens(1, 25, DIMS, 0)
    assert_receptive_field(mixer, x, 0, {0, 1, 2, 5, 6, 7, 10, 11, 12})
    assert_receptive_field(mixer, x, 14, {7, 8, 9, 12, 13, 14, 17, 18, 19})
    assert_receptive_field(mixer, x, 12, {6, 7, 8, 11, 12, 13, 16, 17, 18})


def test_the_grid_of_the_call_comes_before_that_of_the_config_and_a_square() -> None:
    x = tokens(2, 16, DIMS, 0)
    square, tall = (build(NeighbourhoodAttention(window=3, grid=grid), DIMS, 0) for grid in (None, (8, 2)))
    assert torch.equal(square.mix(x, grid=(8, 2)), tall(x))
    assert torch.equal(tall.mix(x, grid=(4, 4)), square(x))
    assert not torch.allclose(square(x), tall(x))


@pytest.mark.parametrize(
    ("grid", "named"), [(None, "a square grid"), ((4, 4), "a 4 x 4 grid"), ((2, 3, 4), "2 x 3 x 4")]
)
def test_tokens_that_do_not_lie_on_the_grid_are_refused(grid: tuple[int, ...] | None, named: str) -> None:
    with pytest.raises(RewriteError, match=f"18 tokens do not lie on .*{named}"):
        build(NeighbourhoodAttention(window=3, grid=grid), DIMS, 0)(tokens(1, 18, DIMS, 0))


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_a_key_that_is_not_finite_spoils_its_neighbours_alone(bad: float) -> None:
    q, k, v = (torch.randn(1, 144, 8) for _ in range(3))
    k[0, 65, 3] = bad
    y = neighbourhood_attention(q, k, v, heads=2, window=3, grid=(12, 12))
    spoilt = torch.isnan(y).any(2)[0].nonzero().flatten().tolist()
    assert spoilt == [52, 53, 54, 64, 65, 66, 76, 77, 78]


def test_a_large_picture_needs_no_square_mask() -> None:
    """2^18 tokens: a mask of all pairs would take 64 GiB."""
    q, k, v = (torch.ones(1, 2**18, 2) for _ in range(3))
    assert torch.allclose(neighbourhood_attention(q, k, v, heads=1, window=3, grid=(512, 512)), v)


@pytest.mark.parametrize(
    "bad",
    [
        {"dilation": 0},
        {"axes": 2, "grid": (2, 2, 2)},
        {"dilation": 2, "backend": "natten"},
        {"window": 4},
        {"window": 0},
        {"window": -3},
        {"grid": (4,)},
        {"grid": (4, 0)},
        {"grid": (2, 2, 2, 2)},
    ],
)
def test_refuses_a_bad_config(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NeighbourhoodAttention.model_validate(bad)
