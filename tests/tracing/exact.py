"""Compares a module with its trace."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import surgery
from tests.tracing.test_exact import assert_same


def assert_exact(model: nn.Module, example: Mapping[str, Any], *others: Mapping[str, Any]) -> nn.Module:
    """Trace `model` at `example`, and compare results, changed inputs and gradients there and at `others`."""
    traced = surgery.trace(model, example).module()
    for number, call in enumerate([example, *others]):
        (mine, seen), (expected, wanted) = (_run(m, call, number) for m in (traced, model))
        assert_same(expected, mine)
        assert_same(wanted, seen)
    return traced


def _run(model: nn.Module, call: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
    """What `model` gives, its inputs afterwards, and its gradients."""
    inputs = copy.deepcopy(dict(call))
    torch.manual_seed(seed)
    model.zero_grad()
    result = model(**inputs)
    loss = sum(t.square().sum() for t in torch.utils._pytree.tree_leaves(result) if _has_gradient(t))
    if isinstance(loss, torch.Tensor):
        loss.backward()  # type: ignore[no-untyped-call]
    plain = {name: vars(value) if hasattr(value, "__dict__") and not isinstance(value, torch.Tensor) else value
             for name, value in inputs.items()}  # fmt: skip
    return result, [plain, [None if p.grad is None else p.grad.clone() for p in model.parameters()]]


def _has_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad
