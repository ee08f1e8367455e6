from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from surgery.training.optim import (
    Optimizer,
    frozen_behaviour,
    linear_weights,
    requiring_grad,
    warmup_constant,
    warmup_cosine,
)
from tests.nightly import examples

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


def train(layer: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        layer(torch.full((1, 3), float(step))).square().sum().backward()
        optimizer.step(0.01)


def optimizer_of(layer: nn.Module, is_muon: bool, **scales: float) -> Optimizer:
    return Optimizer(dict(layer.named_parameters()), linear_weights(layer) if is_muon else (), scales)


@examples(20)
@given(st.integers(0, 5), st.integers(1, 5), st.booleans())
def test_an_optimizer_continues_from_its_state(before: int, after: int, is_muon: bool) -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = optimizer_of(one, is_muon, bias=0.5)
    train(one, optimizer, range(before))
    two.load_state_dict(one.state_dict())
    resumed = optimizer_of(two, is_muon, bias=0.5)
    resumed.load({k: v.clone() for k, v in optimizer.state().items()})
    train(one, optimizer, range(before, before + after))
    train(two, resumed, range(before, before + after))
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


def test_a_scale_slows_one_parameter_and_muon_takes_matrices_only() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    start = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = optimizer_of(layer, True, bias=0.1)
    train(layer, optimizer, range(1))
    assert {key.rsplit("/", 1)[1] for key in optimizer.state() if key.startswith("weight")} == {"momentum_buffer"}
    assert torch.allclose(
        (layer.bias - start["bias"]).abs(), torch.full((2,), 0.001), rtol=1e-3
    )  # Adam's first step: lr


def test_half_precision_is_updated_in_single() -> None:
    """No step is as large as the rounding of a weight; the sum of all is."""
    layer = nn.Linear(3, 2, dtype=torch.bfloat16)
    nn.init.constant_(layer.weight, 1.0)
    optimizer = optimizer_of(layer, False)
    for step in range(100):
        optimizer.zero_grad()
        layer.weight.sum().backward()
        optimizer.step(1e-4)
        assert step > 10 or bool((layer.weight == 1).all())
    torch.testing.assert_close(optimizer.masters["weight"], torch.full((2, 3), 0.99))
    assert torch.equal(layer.weight, optimizer.masters["weight"].bfloat16())
    resumed = optimizer_of(layer, False)
    resumed.load({key: tensor.clone() for key, tensor in optimizer.state().items()})
    assert torch.equal(resumed.masters["weight"], optimizer.masters["weight"])


def test_weight_decay_takes_a_share_of_matrices() -> None:
    layer = nn.Linear(3, 2)
    start = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = Optimizer(dict(layer.named_parameters()), weight_decay=0.5)
    (0 * layer(torch.ones(1, 3))).sum().backward()
    optimizer.step(0.1)
    torch.testing.assert_close(layer.weight, 0.95 * start["weight"])
    assert torch.equal(layer.bias, start["bias"])


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
