"""Random numbers and devices of its own: what is drawn is as after a seed, and the process does not notice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from surgery.recording.own_modes import OnMeta, OwnDraws

DRAWS: dict[str, Callable[[], Tensor]] = {
    "randn": lambda: torch.randn(3),
    "rand": lambda: torch.rand(2, 2, dtype=torch.float64),
    "randint": lambda: torch.randint(9, (4,)),
    "randint from": lambda: torch.randint(2, 9, (4,)),
    "randperm": lambda: torch.randperm(7),
    "randn_like": lambda: torch.randn_like(torch.zeros(5)),
    "rand_like": lambda: torch.rand_like(torch.zeros(5)),
    "randint_like": lambda: torch.randint_like(torch.zeros(5), 9),
    "normal": lambda: torch.normal(torch.zeros(3), 2.0),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 4),
    "dropout": lambda: F.dropout(torch.ones(9)),
    "init": lambda: nn.init.trunc_normal_(torch.empty(4)),
    "layer": lambda: nn.Linear(3, 2).weight.detach(),
    "none": lambda: torch.arange(3.0).exp(),
}


@given(st.lists(st.sampled_from(sorted(DRAWS)), max_size=6), st.integers(0, 2**63 - 1))
def test_draws_are_those_after_the_seed(names: list[str], seed: int) -> None:
    before = torch.get_rng_state()
    with OwnDraws(seed):
        ours = [DRAWS[name]() for name in names]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(seed)
    assert all(torch.equal(our, DRAWS[name]()) for our, name in zip(ours, names, strict=True))


def test_every_kind_of_draw() -> None:
    before = torch.get_rng_state()
    for name, draw in DRAWS.items():
        with OwnDraws(1):
            ours = draw()
        assert torch.equal(torch.get_rng_state(), before), name
        with torch.random.fork_rng():
            torch.manual_seed(1)
            assert torch.equal(ours, draw()), name


def test_a_generator_that_is_given_is_used() -> None:
    with OwnDraws(1):
        ours = torch.randn(3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ours, torch.randn(3, generator=torch.Generator().manual_seed(2)))


def test_what_is_made_is_on_the_meta_device() -> None:
    with OnMeta():
        assert nn.Linear(2, 2).weight.is_meta
        assert not torch.zeros(2, device="cpu").is_meta
        assert torch.utils._device.CURRENT_DEVICE is None
