from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.errors import RewriteError
from surgery.operators import HyenaSE, HyenaX, HyenaY, MixerDims, SequenceMixer
from tests.nightly import examples
from tests.operators.parity import all_dims, assert_parity, assert_receptive_field, build, tokens
from tests.operators.twins import hyena, kernel_seen, taps

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
Config = HyenaSE | HyenaX | HyenaY
kinds = st.sampled_from([HyenaSE, HyenaX, HyenaY])
configs = st.builds(lambda kind, **fields: kind(**fields), kinds, kernel=st.integers(1, 9), causal=st.booleans())


def randomised(config: Config, dims: MixerDims, seed: int) -> SequenceMixer:
    """A mixer whose inner filter, too, is random."""
    mixer = build(config, dims, seed)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter)
    return mixer


@examples(20)
@given(configs, all_dims, st.integers(1, 3), st.integers(1, 20), st.integers(0, 99))
def test_equals_the_naive_twin(config: Config, dims: MixerDims, batch: int, length: int, seed: int) -> None:
    x_BND = tokens(batch, length, dims, seed)
    twin = lambda w, x: hyena(w, x, config.kind, config.kernel, config.causal)  # noqa: E731
    assert_parity(build(config, dims, seed), twin, x_BND)
    assert_parity(randomised(config, dims, seed), twin, x_BND)


@examples(20)
@given(configs, st.integers(1, 20), st.data())
def test_sees_its_kernel_and_nothing_else(config: Config, length: int, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, length - 1))
    seen = [j for j in kernel_seen(i, length, config.kernel, config.causal) if 0 <= j < length]
    if config.kind == "hyena_se":
        seen = [i for j in seen for i in kernel_seen(j, length, config.kernel, config.causal)]
    inside = {j for j in seen if 0 <= j < length}
    assert_receptive_field(randomised(config, DIMS, 0), tokens(2, length, DIMS, 0), i, inside)


grids = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
)


def on(grid: tuple[int, ...], kind: type[Config], kernel: int) -> Config:
    return kind(kernel=kernel, axes=len(grid), grid=grid)


@examples(20)
@given(grids, kinds, st.integers(1, 4), all_dims, st.integers(0, 99))
def test_over_a_grid_it_equals_the_naive_twin(
    grid: tuple[int, ...], kind: type[Config], kernel: int, dims: MixerDims, seed: int
) -> None:
    config = on(grid, kind, kernel)
    twin = lambda w, x: hyena(w, x, config.kind, kernel, False, grid)  # noqa: E731
    assert_parity(randomised(config, dims, seed), twin, tokens(2, math.prod(grid), dims, seed))


@examples(20)
@given(grids, kinds, st.integers(1, 4), st.data())
def test_over_a_grid_it_sees_its_kernel_and_nothing_else(
    grid: tuple[int, ...], kind: type[Config], kernel: int, data: st.DataObject
) -> None:
    length = math.prod(grid)
    i = data.draw(st.integers(0, length - 1))
    seen = set(taps(i, grid, kernel, False).values())
    if kind is HyenaSE:
        seen = {far for near in seen for far in taps(near, grid, kernel, False).values()}
    assert_receptive_field(randomised(on(grid, kind, kernel), DIMS, 0), tokens(2, length, DIMS, 0), i, seen)


def test_without_a_grid_two_axes_are_a_square() -> None:
    x = tokens(2, 16, DIMS, 0)
    square, given_grid = (randomised(HyenaSE(axes=2, grid=grid), DIMS, 0) for grid in (None, (4, 4)))
    assert torch.equal(square(x), given_grid(x))
    assert torch.equal(square(x), randomised(HyenaSE(grid=(4, 4)), DIMS, 0)(x))
    assert torch.equal(given_grid.mix(x, grid=(2, 8)), randomised(HyenaSE(axes=2, grid=(2, 8)), DIMS, 0)(x))
    with pytest.raises(RewriteError, match="15 tokens do not lie on a square grid of 2 axes"):
        square(x[:, :15])
    with pytest.raises(RewriteError, match="15 tokens do not lie on a 4 x 4 grid"):
        given_grid(x[:, :15])


@given(kinds, st.integers(1, 9), st.booleans())
def test_an_inner_filter_starts_as_the_identity(kind: type[Config], kernel: int, causal: bool) -> None:
    mixer = build(kind(kernel=kernel, causal=causal), DIMS, 0)
    x = torch.randn(2, 7, 8).double()
    assert mixer.inner is None or torch.equal(mixer.inner(x), x)


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


@pytest.mark.parametrize(
    "bad",
    [
        {"kernel": 0},
        {"kernel": -3},
        {"kernal": 4},
        {"kind": "hyena_z"},
        {"axes": 4},
        {"axes": 2, "causal": True},
        {"axes": 3},
        {"axes": 1, "grid": (4, 4)},
        {"causal": True, "grid": (4, 4)},
        {"axes": 2, "grid": (4, 4, 4)},
        {"axes": 2, "grid": (4, 0)},
    ],
)
def test_refuses_a_bad_config(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HyenaX.model_validate(bad)
