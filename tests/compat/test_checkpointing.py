"""Gradient checkpointing recomputes the blocks and gives the same gradients."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from tests.compat.models import every_pair, inputs, pair
from tests.tracing.test_exact import assert_same


def gradients(model: torch.nn.Module, name: str) -> list[Any]:
    torch.manual_seed(1)
    model(**inputs(name)).sample.square().sum().backward()
    return [p.grad for p in model.parameters()]


def calls(model: torch.nn.Module) -> Counter[str]:
    """Counts the calls of every module from here on."""
    counts: Counter[str] = Counter()
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: counts.update([path]))
    return counts


@every_pair
def test_checkpointed_gradients_are_exact(name, maker):
    model, twin = (module.train() for module in pair(name, maker))
    for module in (model, twin):
        module.enable_gradient_checkpointing()
    ours, theirs = calls(model), calls(twin)
    assert_same(gradients(model, name), gradients(twin, name))
    assert ours == theirs
    assert max(theirs.values()) > 1


def test_it_can_be_switched_off_again():
    model, twin = pair("dit", "original")
    expected = gradients(model, "dit")
    twin.enable_gradient_checkpointing()
    twin(**inputs("dit"))
    twin.disable_gradient_checkpointing()
    counts = calls(twin)
    assert_same(expected, gradients(twin, "dit"))
    assert counts["transformer_blocks.0"] == 1
