"""Which grid tokens lie on is told from inputs and shapes alone, and a figure is left out where it is not clear."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.analysis.roles.flow import Flow
from surgery.statistics.attention import Layout, radius_of, window_of
from surgery.statistics.layouts import Layouts
from surgery.statistics.observer import Observer
from tests.classes import all_cases
from tests.classes.check import randomised
from tests.statistics import direct

CASES = {case.name: case for case in all_cases()}
NO_FLOW = Flow.__new__(Flow)
NO_FLOW.order = {}
NO_FLOW.walk = lambda starts: iter(())  # type: ignore[method-assign]


def layout(tokens: int, **arguments: object) -> Layout | None:
    return Layouts(NO_FLOW, arguments).of(("", None), tokens)  # type: ignore[arg-type]


@given(sizes=st.lists(st.integers(2, 5), min_size=2, max_size=3), padding=st.integers(0, 1), batched=st.booleans())
def test_positions_in_raster_order_tell_their_grid(sizes, padding, batched):
    rows = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).float()
    rows = torch.cat([torch.zeros(len(rows), padding), rows], 1)
    given = rows[None] if batched else rows
    assert layout(math.prod(sizes), ids=given) == Layout(tuple(sizes))
    assert layout(math.prod(sizes), ids=given.flip(-2)) is None  # in another order than the raster's


@given(height=st.integers(2, 6), width=st.integers(2, 6), patch=st.integers(1, 3))
def test_latents_of_a_picture_tell_the_grid_of_square_patches(height, width, patch):
    latents = torch.zeros(1, 4, height * patch, width * patch)
    assert layout(height * width, hidden_states=latents) == Layout((height, width))


def test_frames_are_an_axis_wherever_they_stand():
    assert layout(48, x=torch.zeros(1, 7, 3, 8, 8)) == Layout((3, 4, 4))
    assert layout(48, x=torch.zeros(1, 3, 7, 8, 8)) == Layout((3, 4, 4))
    assert layout(16, x=torch.zeros(1, 7, 3, 8, 8)) == Layout((4, 4))  # the attention of one frame
    assert layout(3, x=torch.zeros(1, 7, 3, 8, 8)) is None  # over time there is no grid


def test_numbers_of_rows_and_columns_tell_a_grid():
    assert layout(24, x=torch.zeros(1, 24, 8), num_frames=2, height=3, width=4) == Layout((2, 3, 4))
    assert layout(12, x=torch.zeros(1, 12, 8), img_shapes=[[(1, 3, 4)]]) == Layout((3, 4))


def test_two_grids_of_as_many_tokens_are_none():
    assert layout(64, x=torch.zeros(1, 3, 4, 8, 8)) is None  # 8 x 8 of one frame, or 4 x 4 x 4


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("FluxTransformer2DModel", Layout((4, 6), first=7)),  # packed latents with positions, behind the text
        ("SD3Transformer2DModel", Layout((4, 3))),  # before the text
        ("CogVideoXTransformer3DModel-rotary", Layout((3, 2, 3), first=7)),
        ("WanTransformer3DModel", Layout((3, 2, 3))),
    ],
)
def test_locality_on_the_grid_of_whole_models(name, wanted):
    case = CASES[name]
    model, observer = randomised(case.model()), Observer(randomised(case.model()))
    with torch.no_grad(), direct.attention_seen() as seen:
        model(**case.example())
    with torch.no_grad():
        observer(case.example())
    query, key, mask = (seen[0].get(name) for name in ("query", "key", "attn_mask"))
    reach = radius_of(window_of(query.shape[-2]), len(wanted.sizes))
    expected = direct.on_grid(direct.weights(query, key, mask), wanted.sizes, wanted.first, reach)
    assert observer.layers()[0][f"locality_{len(wanted.sizes)}d"] == pytest.approx(expected, abs=1e-9)
