"""Muon: momentum whose steps are made orthogonal.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Each step is scaled to the size of AdamW's (Liu et al.
2025, arXiv 2502.16982), so that both take the same learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor, nn

from surgery.parallel.whole import divided_like, whole

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial of Jordan et al., which brings singular values near 1 in few iterations."""
ITERATIONS = 5
ADAM_SIZE = 0.2
"""The root mean square of a step of AdamW, as Liu et al. found it."""


class Muon(torch.optim.Optimizer):
    """Updates matrices; those of one shape are multiplied together. Of divided ones each process needs the whole for it.

    Args:
        parameters: of two dimensions each.
        weight_decay: by how much of themselves, times the learning rate, they shrink in a step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without a closure
        """Update all that have a gradient."""
        for group in self.param_groups:
            trained = sorted((p for p in group["params"] if p.grad is not None), key=_kind)
            for _, alike in groupby(trained, key=_kind):
                parameters = list(alike)
                steps = orthogonal(torch.stack([whole(self._momentum(p)) for p in parameters])).to(parameters[0].dtype)
                size = ADAM_SIZE * math.sqrt(max(parameters[0].shape))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                own = [divided_like(step, p) for step, p in zip(steps.unbind(), parameters, strict=True)]
                torch._foreach_add_(parameters, own, alpha=-group["lr"] * size)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """The direction of the next step, which looks ahead as Nesterov's does."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        average: Tensor = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(average, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """U V^T of each of `matrices` U S V^T, (K, M, N), nearly: singular values come between 0.7 and 1.2.

    Not every processor multiplies bfloat16 in hardware, and one that does not takes many times as long; so it is float32
    on all of them, which gives the same numbers everywhere, and bfloat16 on accelerators.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.float32 if matrices.device.type == "cpu" else torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _kind(parameter: nn.Parameter) -> tuple[tuple[int, ...], str, str]:
    """What matrices must have in common to be multiplied together."""
    return (tuple(parameter.shape), str(parameter.device), str(parameter.dtype))
