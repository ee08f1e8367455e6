from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surgery.training.optim import (
    adamw,
    frozen_behaviour,
    load_state_tensors,
    requiring_grad,
    state_tensors,
    warmup_constant,
    warmup_cosine,
)

counts = st.integers(1, 500)


@given(counts, st.integers(0, 500), st.integers(0, 499))
def test_learning_rates_are_positive_and_bounded(steps: int, warmup: int, step: int) -> None:
    step = min(step, steps - 1)
    for lr in (warmup_constant(step, 0.5, warmup), warmup_cosine(step, 0.5, warmup, steps)):
        assert 0 < lr <= 0.5


@given(st.integers(1, 200), counts)
def test_learning_rates_rise_linearly_and_then_stay_or_fall(warmup: int, more: int) -> None:
    steps = warmup + more
    constant = [warmup_constant(s, 1.0, warmup) for s in range(steps)]
    cosine = [warmup_cosine(s, 1.0, warmup, steps) for s in range(steps)]
    assert constant[:warmup] == cosine[:warmup] == [(s + 1) / warmup for s in range(warmup)]
    assert set(constant[warmup:]) == {1.0}
    assert cosine[warmup:] == sorted(cosine[warmup:], reverse=True)
    assert cosine[-1] < 0.5 or more < 3


def train(layer: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.param_groups[0]["lr"] = 0.01
        optimizer.zero_grad()
        layer(torch.full((1, 3), float(step))).square().sum().backward()
        optimizer.step()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.integers(1, 5))
def test_an_optimizer_continues_from_its_state(before: int, after: int) -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = adamw(one.parameters())
    train(one, optimizer, range(before))
    two.load_state_dict(one.state_dict())
    resumed = adamw(two.parameters())
    saved = {k: v.clone() for k, v in state_tensors(optimizer, dict(one.named_parameters())).items()}
    load_state_tensors(resumed, dict(two.named_parameters()), saved)
    train(one, optimizer, range(before, before + after))
    train(two, resumed, range(before, before + after))
    assert torch.equal(one.weight, two.weight)


def test_modes_and_flags_are_restored() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    with frozen_behaviour(model), requiring_grad(model.parameters()):
        assert not any(module.training for module in model.modules())
        model(torch.ones(1, 2)).sum().backward()
        assert model[0].weight.grad is not None
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert not model[0].weight.requires_grad
    assert model[0].bias.requires_grad
    assert model[0].weight.grad is None
