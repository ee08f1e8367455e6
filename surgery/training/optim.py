"""The optimizer, its learning rates, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from surgery.parallel.whole import alike
from surgery.training.muon import Muon

MASTER = "master"


def warmup_constant(step: int, lr: float, warmup: int) -> float:
    """The learning rate of `step`, counted from 0: linear to `lr` in `warmup` steps, then constant."""
    return lr * min(1.0, (step + 1) / max(warmup, 1))


def warmup_cosine(step: int, lr: float, warmup: int, steps: int) -> float:
    """The learning rate of `step`, counted from 0: linear up to `lr`, then down to 0 along half a cosine."""
    fraction = max(0, step - warmup) / max(steps - warmup, 1)
    return warmup_constant(step, lr, warmup) * 0.5 * (1 + math.cos(math.pi * fraction))


class Optimizer:
    """AdamW, in the paper without weight decay; for some matrices Muon, at the same learning rate.

    Weights in half precision are updated in float32, which is kept beside them: many an update is smaller than their
    rounding.

    Args:
        parameters: what is trained, by name.
        matrices: the names of those that Muon takes, each of two dimensions.
        scales: by name, a factor on the learning rate; 1 where none is given.
        weight_decay: the share of a weight that an update at a learning rate of 1 would take from it; of matrices and
            filters only, not of biases and norms.

    Attributes:
        masters: the parameters by name as precisely as they are known.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        matrices: Collection[str] = (),
        scales: Mapping[str, float] = {},
        weight_decay: float = 0.0,
    ) -> None:
        self._parameters = dict(parameters)
        self.masters = {name: _master(parameter) for name, parameter in parameters.items()}
        groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
        for name, master in self.masters.items():
            decay = weight_decay if master.ndim > 1 else 0.0
            groups.setdefault((name in matrices, decay, scales.get(name, 1.0)), []).append(master)
        self._parts = [
            (_optimizer(is_muon, decay, part), scale)
            for (is_muon, decay, scale), group in groups.items()
            for part in alike(group)
        ]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the parameters at this learning rate."""
        rounded = {n: p for n, p in self._parameters.items() if self.masters[n] is not p}
        for name, parameter in rounded.items():
            self.masters[name].grad = None if parameter.grad is None else parameter.grad.float()
        for part, scale in self._parts:
            for group in part.param_groups:
                group["lr"] = lr * scale
            part.step()
        for name, parameter in rounded.items():
            self.masters[name].grad = None
            parameter.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """The moments as "name/moment" -> tensor; the "master" of a rounded weight counts as one."""
        masters = {f"{n}/{MASTER}": m.detach() for n, m in self.masters.items() if m is not self._parameters[n]}
        moments = {
            f"{name}/{moment}": tensor
            for name, master in self.masters.items()
            for part, _ in self._parts
            for moment, tensor in part.state.get(master, {}).items()
        }
        return {**masters, **moments}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a saved state, whose tensors are where the parameters are; counts of steps are on the CPU."""
        owners = {id(p): part for part, _ in self._parts for group in part.param_groups for p in group["params"]}
        for key, tensor in tensors.items():
            name, moment = key.rsplit("/", 1)
            master = self.masters[name]
            if moment == MASTER:
                master.copy_(tensor)
            else:
                owners[id(master)].state[master][moment] = tensor.clone()


def _master(parameter: nn.Parameter) -> nn.Parameter:
    """The parameter itself, or what holds it in float32 if it is in half precision."""
    precise = torch.promote_types(parameter.dtype, torch.float32) == parameter.dtype
    return parameter if precise else nn.Parameter(parameter.detach().float())


def _optimizer(is_matrix: bool, decay: float, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if is_matrix:
        return Muon(parameters, weight_decay=decay)
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=decay)


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
