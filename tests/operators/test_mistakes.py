"""A wrong value of an operator: one line that names the value once."""

from __future__ import annotations

import pytest

from surgery.errors import ConfigError
from surgery.operators import MLP, Blend, ConvMLP, FullAttention, HyenaX, LinearAttention, NeighbourhoodAttention
from surgery.rewriting import every

MISTAKES = {
    "NeighbourhoodAttention.window: must be odd, got 4": lambda: NeighbourhoodAttention(window=4),
    "ConvMLP.kernel: must be odd, got 2": lambda: ConvMLP(kernel=2, ratio=2),
    "Blend.parts: must be two mixers or more, got ": lambda: Blend(parts=(FullAttention(),)),
    "Blend.parts: MLP has no core that mixes queries, keys and values, got ": lambda: Blend(
        parts=(MLP(ratio=2), FullAttention())
    ),
    "HyenaX: causal needs the raster order, got 2 axes": lambda: HyenaX(causal=True, axes=2),
    "HyenaX: grid (1, 2, 3) has 3 axes, but axes is 2": lambda: HyenaX(axes=2, grid=(1, 2, 3)),
    "LinearAttention: axes and grid need depthwise, e.g. depthwise=5": lambda: LinearAttention(axes=2),
    "Every: first must be less than n, got first=5, n=2": lambda: every(2, first=5),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_wrong_values_are_named_once(line):
    with pytest.raises(ConfigError) as caught:
        MISTAKES[line]()
    assert str(caught.value).startswith(line)
    assert str(caught.value).count("got ") == line.count("got ")
