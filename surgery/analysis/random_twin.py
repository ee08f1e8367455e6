"""A copy of a module with random weights in double precision: what it gives is what its code computes.

What is claimed of a module is shown on its twin: of random numbers no coincidence hides a gate that starts at zero, a
temperature of one, or a bias that is not learned yet, and in double precision small differences are no rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgery.recording.skeleton import remade

SPREAD = 1.5
"""Standard deviation of what a linear map of the twin gives for standard normal features: scores far from uniform."""

PERIOD = 100_003


def random_twin(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` on the CPU, in evaluation mode, with random floating-point tensors; `module` may be on the meta device.

    Its whole numbers and masks stay what they are; where they have no values, they are zeros.
    """
    generator = torch.Generator().manual_seed(seed)

    def made(tensor: Tensor) -> Tensor:
        new = _random(tensor, generator) if tensor.is_floating_point() else _same(tensor)
        return nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new

    return remade(module, made).eval()


def random_tokens(*shape: int) -> Tensor:
    """Standard normal numbers in double precision."""
    return torch.randn(*shape, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(1))


def _random(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of that shape; large matrices repeat some with a period of no meaning, as drawing them takes seconds."""
    some = torch.randn(min(tensor.numel(), PERIOD), dtype=torch.float64, device="cpu", generator=generator)
    drawn = some.repeat(-(-tensor.numel() // PERIOD))[: tensor.numel()].view(tensor.shape)
    return drawn.mul_(SPREAD * tensor.shape[-1] ** -0.5) if tensor.dim() > 1 else drawn


def _same(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach().to("cpu", copy=True)
