"""The optimizer, its learning rates, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def warmup_constant(step: int, lr: float, warmup: int) -> float:
    """Return the learning rate of ``step`` (from 0): linear to ``lr`` in ``warmup`` steps, then constant."""
    return lr * min(1.0, (step + 1) / max(warmup, 1))


def warmup_cosine(step: int, lr: float, warmup: int, steps: int) -> float:
    """Return the learning rate of ``step`` (from 0): linear up to ``lr``, then down along half a cosine."""
    fraction = max(0, step - warmup) / max(steps - warmup, 1)
    return warmup_constant(step, lr, warmup) * 0.5 * (1 + math.cos(math.pi * fraction))


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """Return AdamW without weight decay (as in the paper); its learning rate is set before each step."""
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)


def state_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimizer's state as "name/moment" -> tensor."""
    return {
        f"{name}/{moment}": tensor
        for name, parameter in parameters.items()
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Give the optimizer the state that ``state_tensors`` returned; it holds ``parameters`` in this order."""
    state: dict[int, dict[str, Tensor]] = {}
    position = {name: i for i, name in enumerate(parameters)}
    for key, tensor in tensors.items():
        name, moment = key.rsplit("/", 1)
        state.setdefault(position[name], {})[moment] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@contextmanager
def frozen_behaviour(*models: nn.Module) -> Iterator[None]:
    """Put the models into eval mode inside the block: dropout would teach a student another function."""
    modes = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def requiring_grad(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let the parameters take gradients inside the block; afterwards drop them and restore the flags."""
    flags = [(parameter, parameter.requires_grad) for parameter in parameters]
    for parameter, _ in flags:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.grad = None
            parameter.requires_grad_(flag)
