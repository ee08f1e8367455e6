from __future__ import annotations

import torch
from diffusers.training_utils import EMAModel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surgery.training.ema import Ema, decay_at
from tests.nightly import examples
from tests.training.tiny import same_bits, weights


@examples(20)
@given(st.floats(0, 0.9999), st.integers(1, 30), st.integers(0, 100))
def test_the_average_is_that_of_diffusers(decay: float, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(3, 4)
    ours = Ema(dict(layer.named_parameters()), decay)
    theirs = EMAModel(layer.parameters(), decay=decay)
    for step in range(steps):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update(step, dict(layer.named_parameters()))
        theirs.step(layer.parameters())
    for mine, their in zip(ours.shadow.values(), theirs.shadow_params, strict=True):
        torch.testing.assert_close(mine, their)


@given(st.integers(0, 10**6), st.floats(0, 0.9999))
def test_decay_rises_to_its_limit(step: int, limit: float) -> None:
    assert decay_at(0, limit) == 0
    assert decay_at(step, limit) <= decay_at(step + 1, limit) <= limit
    assert decay_at(10**9, limit) == limit


def test_the_average_of_bfloat16_moves_by_less_than_its_resolution() -> None:
    layer = nn.Linear(2, 2, dtype=torch.bfloat16)
    nn.init.constant_(layer.weight, 1.0)
    ema = Ema(dict(layer.named_parameters()), 0.9999)
    nn.init.constant_(layer.weight, 2.0)
    ema.update(10**6, dict(layer.named_parameters()))
    assert 1.0 < ema.shadow["weight"][0, 0].item() < 1.001


def test_applied_gives_the_bits_back() -> None:
    layer = nn.Linear(3, 3)
    before = weights(layer)
    ema = Ema(dict(layer.named_parameters()), 0.5)
    for average in ema.shadow.values():
        average.add_(1.0)
    with ema.applied():
        assert torch.equal(layer.weight, before["weight"] + 1.0)
    assert same_bits(before, weights(layer))
