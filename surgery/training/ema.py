"""An exponential moving average of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def decay_at(step: int, limit: float) -> float:
    """The decay of an update, counted from 0: 0 at first, then (1 + step) / (10 + step) up to `limit`.

    This is the warm-up of diffusers' EMAModel; without it a short run would keep its starting point.
    """
    return 0.0 if step <= 0 else min(limit, (1 + step) / (10 + step))


class Ema:
    """The moving average of parameters, in float32 at least: bfloat16 cannot hold a change of 0.01 %.

    Attributes:
        shadow: the averages by name, each of its parameter's shape.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.shadow = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the parameters after update `step`, counted from 0."""
        weight = 1 - decay_at(step, self._decay)
        for name, average in self.shadow.items():
            average.lerp_(self._parameters[name].to(average.dtype), weight)

    @torch.no_grad()
    def load(self, shadow: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        for name, average in self.shadow.items():
            average.copy_(shadow[name])

    @torch.no_grad()
    def write_to_parameters(self) -> None:
        """Set the parameters to their average."""
        for name, average in self.shadow.items():
            self._parameters[name].copy_(average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the parameters to their average inside the block, and back to the same bits afterwards."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.write_to_parameters()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(kept[name])
