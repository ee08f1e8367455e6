"""A copy of a module with random weights in double precision: what it gives is what its code computes.

What is claimed of a module is shown on its twin: of random numbers no coincidence hides a gate that starts at zero, a
temperature of one, or a bias that is not learned yet, and in double precision small differences are no rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from surgery.recording.skeleton import remade

SPREAD = 1.5
"""Standard deviation of what a linear map of the twin gives for standard normal features: scores far from uniform."""

PERIOD = 100_003

LARGE = 1 << 20
"""A matrix of so many weights may be a sparse one."""

READS = 4
"""How many features each result of a sparse map reads at least, and how often each feature is read at least."""


class SparseMaps(TorchFunctionMode):
    """While it is open, linear maps run whose large matrices `matrix` made: they take no memory and hardly any time.

    All else that is done with such a matrix fails, as it lies on the meta device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._maps: dict[int, tuple[Tensor, Tensor]] = {}

    def matrix(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """A matrix on the meta device of the shape of `like`; each of its rows reads a few features, drawn at random."""
        rows, features = like.shape
        reads = READS * max(1, -(-features // rows))
        drawn = (torch.randperm(features, generator=generator) for _ in range(-(-rows * reads // features)))
        values = torch.randn(rows, reads, dtype=torch.float64, device="cpu", generator=generator)
        matrix = torch.empty(rows, features, dtype=torch.float64, device="meta")
        matrix = nn.Parameter(matrix, requires_grad=False) if isinstance(like, nn.Parameter) else matrix
        self._maps[id(matrix)] = torch.cat([*drawn])[: rows * reads].view(rows, reads), values * SPREAD * reads**-0.5
        return matrix

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = self._maps.get(id(args[1])) if func is F.linear and len(args) > 1 else None
        if known is None:
            return func(*args, **(kwargs or {}))
        read, values = known
        bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
        result = (args[0][..., read] * values).sum(-1)
        return result if bias is None else result + bias


def random_twin(module: nn.Module, maps: SparseMaps | None = None) -> nn.Module:
    """`module` on the CPU, in evaluation mode, with random floating-point tensors; `module` may be on the meta device.

    Its whole numbers and masks stay what they are; where they have no values, they are zeros. Large matrices are those of
    `maps`, if these are given.
    """
    generator = torch.Generator().manual_seed(0)

    def made(tensor: Tensor) -> Tensor:
        if maps is not None and tensor.is_floating_point() and tensor.dim() == 2 and tensor.numel() >= LARGE:
            return maps.matrix(tensor, generator)
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
