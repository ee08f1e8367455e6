"""Blocks and models as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

DIM = 8


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Whose residual addition is `how`; without one the block gives the branch alone."""

    def __init__(self, how: Callable[[Tensor, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.norm, self.mlp, self.how = nn.LayerNorm(DIM), Mlp(), how

    def forward(self, x: Tensor) -> Any:
        y = self.mlp(self.norm(x))
        return y if self.how is None else self.how(x, y)


class Model(nn.Module):
    """Blocks in turn; what they give is taken to the stream by `then`."""

    def __init__(
        self, make: Callable[[], nn.Module], then: Callable[[Tensor, Tensor], Tensor] | None = None, count: int = 3
    ) -> None:
        super().__init__()
        self.inner, self.then = nn.Linear(DIM, DIM), then
        self.blocks = nn.ModuleList(make() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        for each in self.blocks:
            x = each(x) if self.then is None else self.then(x, each(x))
        return x


def residual() -> Block:
    return Block(lambda x, y: x + y)


def tokens(*sizes: int) -> dict[str, Tensor]:
    return {"x": torch.randn(*sizes or (2, 5), DIM, generator=torch.Generator().manual_seed(0))}


def counted(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return int(counter.get_total_flops())
