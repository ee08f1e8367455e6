"""Curves stay inside their frame, whatever the values, and are thinned and smoothed without being falsified."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from surgery.evaluate.plots import Curve, finite, line_chart, smooth, thin
from tests.evaluate.balanced import Balanced


@given(st.floats(1e-6, 1e6), st.floats(8.1, 1e12))
def test_a_log_axis_has_a_few_ticks(low, ratio):
    drawing = line_chart([Curve([(0, low), (1, low * ratio)], "#000000")], "step", "loss", "y")
    assert 2 <= drawing.count('text-anchor="end">') - 1 <= 8


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=900))
def test_smoothing_and_thinning_stay_within_the_values(values):
    points = [(float(i), v) for i, v in enumerate(values)]
    assert len(thin(points)) <= 400
    for curve in (smooth(points), thin(points)):
        assert all(min(values) - 1e-6 <= y <= max(values) + 1e-6 for _, y in curve)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64) | st.none(), min_size=1, max_size=60))
@example([1e8, 1e-300])
def test_any_losses_can_be_drawn_inside_the_frame(values):
    points = finite(enumerate(values))
    line = line_chart([Curve(points, "#000000")], "step", "loss", "y")
    assert (line.count('class="line"'), line.count("<circle")) == (len(points) > 1, len(points) == 1)
    drawing = line_chart([Curve(points, "#000000", "rings")], "step", "loss", "y")
    frame = Balanced()
    frame.feed(drawing)
    places = [(float(a["cx"]), float(a["cy"])) for tag, a in frame.seen if tag == "circle"]
    assert len(places) == len(points)
    assert all(0 <= x <= 480 and 0 <= y <= 250 for x, y in places)
    assert bool(drawing) == bool(points)


@given(st.floats(1e-3, 1.0), st.floats(10, 1e4))
def test_wide_ranges_get_a_log_axis(low, ratio):
    drawing = line_chart(
        [Curve([(0, low), (1, low * ratio**0.5), (2, low * ratio)], "#000000", "rings")], "step", "loss", "y"
    )
    frame = Balanced()
    frame.feed(drawing)
    first, middle, last = (float(a["cy"]) for tag, a in frame.seen if tag == "circle")
    assert middle == pytest.approx((first + last) / 2, abs=0.2)


def test_smoothing_leaves_no_noise_at_the_end():
    points = [(float(i), float(i % 2)) for i in range(100)]
    assert smooth(points)[-1][1] == pytest.approx(0.5, abs=0.1)
