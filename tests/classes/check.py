"""Compares a model with its trace, bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

from tests.classes.case import Case, Sizes


def randomised(model: nn.Module) -> nn.Module:
    """`model` with every parameter drawn anew: blocks that start at zero, as adaLN-zero does, would hide differences."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(0.08 * torch.randn(parameter.shape, generator=generator))
    return model


def same_bits(expected: Any, actual: Any) -> bool:
    """Whether two outputs have the same types and the same bits; NaN equals NaN."""
    pairs = list(zip(tree_leaves(expected), tree_leaves(actual), strict=False))
    return tree_structure(expected) == tree_structure(actual) and all(_same(a, b) for a, b in pairs)


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor):
        return type(a) is type(b) and bool(a == b)
    same_kind = type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
    return same_kind and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def forward(model: nn.Module, case: Case, sizes: Sizes, seed: int = 1, **changes: Any) -> Any:
    """The output of `model` on inputs of its own, which follow as they are then: a forward may fill a cache.

    Random numbers drawn inside are the same in every call. Every second seed runs in inference mode.
    """
    inputs = case.example(sizes, seed) | changes
    torch.manual_seed(seed)
    with torch.inference_mode() if seed % 2 else torch.no_grad():
        return model(**inputs), tree_map(_attributes, inputs)


def _attributes(value: Any) -> Any:
    """What is in an object; the leaves of plain inputs as they are."""
    plain = isinstance(value, torch.Tensor) or not hasattr(value, "__dict__")
    return value if plain else tree_map(_attributes, {k: v for k, v in vars(value).items() if not callable(v)})


def gradients(model: nn.Module, case: Case, sizes: Sizes, seed: int = 1) -> list[torch.Tensor | None]:
    """The gradients of the sum of squares of all outputs, in the order of the parameters."""
    inputs = case.example(sizes, seed)
    torch.manual_seed(seed)
    model.zero_grad()
    outputs = [v for v in tree_leaves(model(**inputs)) if isinstance(v, torch.Tensor) and v.requires_grad]
    torch.stack([v.abs().square().sum() for v in outputs]).sum().backward()
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def in_bfloat16(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with every float32 tensor cast."""
    return tree_map(lambda v: v.bfloat16() if isinstance(v, torch.Tensor) and v.dtype == torch.float32 else v, inputs)
