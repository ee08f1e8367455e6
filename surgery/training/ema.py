"""An exponential moving average of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from surgery.parallel.whole import is_divided, own_part


def decay_at(step: int, limit: float) -> float:
    """The decay of an update, counted from 0: 0 at first, then (1 + step) / (10 + step) up to `limit`.

    This is the warm-up of diffusers' EMAModel; without it a short run would keep its starting point.
    """
    return 0.0 if step <= 0 else min(limit, (1 + step) / (10 + step))


class Ema:
    """The moving average of parameters, in float32 at least: bfloat16 cannot hold a change of 0.01 %.

    Args:
        parameters: by name.
        decay: the largest one.
        device: where the averages are kept; None keeps each beside its parameter.

    Attributes:
        shadow: the averages by name, each of its parameter's shape.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, device: str | None = None) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.shadow = {
            name: p.detach().to(device or p.device, torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Move the average towards `values`, the parameters as precisely as they are known, after update `step`, counted
        from 0."""
        weight = 1 - decay_at(step, self._decay)
        for name, average in self.shadow.items():
            mean = own_part(average)
            mean.lerp_(own_part(values[name]).to(mean), weight)

    @torch.no_grad()
    def write_to_parameters(self) -> None:
        """Set the parameters to their average."""
        for name, average in self.shadow.items():
            self._parameters[name].copy_(average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the parameters be their average inside the block; no memory is copied where both are of one kind and
        whole: FSDP holds on to the memory of its parts."""
        kept = {name: p.detach().clone() if is_divided(p) else p.data for name, p in self._parameters.items()}
        self._exchange(self.shadow)
        try:
            yield
        finally:
            self._exchange(kept)

    @torch.no_grad()
    def _exchange(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            if is_divided(parameter):
                own_part(parameter).copy_(own_part(values[name]))
            else:
                parameter.data = values[name].to(parameter)
