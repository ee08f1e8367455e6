"""The optimizer, its learning rates, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from surgery.training.muon import Muon


def warmup_constant(step: int, lr: float, warmup: int) -> float:
    """The learning rate of `step`, counted from 0: linear to `lr` in `warmup` steps, then constant."""
    return lr * min(1.0, (step + 1) / max(warmup, 1))


def warmup_cosine(step: int, lr: float, warmup: int, steps: int) -> float:
    """The learning rate of `step`, counted from 0: linear up to `lr`, then down to 0 along half a cosine."""
    fraction = max(0, step - warmup) / max(steps - warmup, 1)
    return warmup_constant(step, lr, warmup) * 0.5 * (1 + math.cos(math.pi * fraction))


class Optimizer:
    """AdamW without weight decay, as in the paper; for some matrices Muon, at the same learning rate.

    Args:
        parameters: what is trained, by name.
        matrices: the names of those that Muon takes, each of two dimensions.
        scales: by name, a factor on the learning rate; 1 where none is given.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], matrices: Collection[str] = (), scales: Mapping[str, float] = {}
    ) -> None:
        self._parameters = dict(parameters)
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            groups.setdefault((name in matrices, scales.get(name, 1.0)), []).append(parameter)
        self._parts = [(_optimizer(is_matrix, group), scale) for (is_matrix, scale), group in groups.items()]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part, _ in self._parts:
            part.zero_grad()

    def step(self, lr: float) -> None:
        """Update the parameters at this learning rate."""
        for part, scale in self._parts:
            for group in part.param_groups:
                group["lr"] = lr * scale
            part.step()

    def state(self) -> dict[str, Tensor]:
        """The moments as "name/moment" -> tensor."""
        return {
            f"{name}/{moment}": tensor
            for name, parameter in self._parameters.items()
            for part, _ in self._parts
            for moment, tensor in part.state.get(parameter, {}).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a saved state. A count of steps stays on the CPU, where the optimizers keep it."""
        owners = {id(p): part for part, _ in self._parts for group in part.param_groups for p in group["params"]}
        for key, tensor in tensors.items():
            name, moment = key.rsplit("/", 1)
            parameter = self._parameters[name]
            device = "cpu" if moment == "step" else parameter.device
            owners[id(parameter)].state[parameter][moment] = tensor.to(device, copy=True)


def _optimizer(is_matrix: bool, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if is_matrix:
        return Muon(parameters)
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)


def linear_weights(model: nn.Module) -> set[str]:
    """The names of the weights of linear layers."""
    return {f"{path}.weight".lstrip(".") for path, module in model.named_modules() if isinstance(module, nn.Linear)}


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
def requiring_grad(parameters: Iterable[nn.Parameter], required: bool = True) -> Iterator[None]:
    """Let the parameters take gradients, or none, inside the block; afterwards drop them and restore the flags."""
    flags = [(parameter, parameter.requires_grad) for parameter in parameters]
    for parameter, _ in flags:
        parameter.requires_grad_(required)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.grad = None
            parameter.requires_grad_(flag)
