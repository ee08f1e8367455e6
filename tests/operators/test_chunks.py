"""States between chunks, against one step after the other. Shape legend as in surgery/operators/chunks.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from surgery.operators import TTT, GatedDelta, Mamba2, MixerConfig, MixerDims, chunks
from tests.operators.parity import build

DIMS = MixerDims(dim=8, heads=2, head_dim=4, qkv_bias=True, out_bias=True)
Times = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, and halved to the end."""
    monkeypatch.setattr(chunks, "steps_are_cheap", lambda _: False)
    monkeypatch.setattr(chunks, "LOOP", 1)


def naive(kept: Tensor, added: Tensor, first: Tensor, times: Times, backwards: bool) -> tuple[Tensor, Tensor]:
    entered = torch.zeros_like(added)
    for m in reversed(range(kept.shape[1])) if backwards else range(kept.shape[1]):
        entered[:, m] = first
        first = times(kept[:, m], first) + added[:, m]
    return entered, first


@pytest.mark.usefixtures("costly")
@given(st.integers(1, 40), st.sampled_from([torch.mul, torch.matmul]), st.booleans(), st.integers(0, 99))
@example(64, torch.matmul, True, 0)
def test_halved_states_are_those_of_one_step_after_the_other(
    steps: int, times: Times, backwards: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kept, added = (torch.randn(2, steps, 3, 3, generator=generator).double() for _ in range(2))
    first = torch.randn(2, 3, 3, generator=generator).double()
    found = chunks.states(kept / 2, added, first, times, backwards=backwards)
    for each, wanted in zip(found, naive(kept / 2, added, first, times, backwards), strict=True):
        torch.testing.assert_close(each, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("costly")
def test_costly_steps_grow_with_the_logarithm_of_the_chunks() -> None:
    def steps(count: int) -> int:
        calls: list[int] = []

        def times(kept: Tensor, state: Tensor) -> Tensor:
            calls.append(len(kept))
            return kept * state

        chunks.STEP[times] = lambda added, kept, state: added + times(kept, state)
        chunks.states(torch.ones(1, count, 1), torch.ones(1, count, 1), torch.ones(1, 1), times)
        del chunks.STEP[times]
        return len(calls)

    assert steps(2048) - steps(1024) == steps(1024) - steps(512) > 0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "config", [Mamba2(head_dim=2), GatedDelta(), TTT(chunk=16), TTT(chunk=16, inner="gated")], ids=lambda c: c.kind
)
def test_a_scan_gives_the_same_on_every_device(
    config: MixerConfig, causal: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By segments and one step after the other, and halved at once: results and gradients."""
    mixer = build(config.model_copy(update={"causal": causal}), DIMS, 0).double()
    x_BND = torch.randn(2, 300, 8, dtype=torch.float64, requires_grad=True)

    def run() -> tuple[Tensor, ...]:
        y_BND = mixer(x_BND)
        return y_BND, *torch.autograd.grad(y_BND.square().sum(), [x_BND, *mixer.parameters()])

    monkeypatch.setitem(chunks.SEGMENT, "cpu", 128)
    in_segments = run()
    monkeypatch.setitem(chunks.SEGMENT, "cpu", 300)
    request.getfixturevalue("costly")
    for found, wanted in zip(run(), in_segments, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
