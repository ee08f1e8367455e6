"""Schedulers that scale their latents before a model sees them, by a factor that depends on the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surgery.errors import WiringError

TRIED = 2**14
"""Numbers that a factor is tried on at each position; in half precision few tell a quotient from a product."""


@dataclass(frozen=True)
class Scaling:
    """What latents are multiplied by, or divided by, at each position.

    Attributes:
        values: (positions,), float32.
        divides: whether they divide; a quotient rounds otherwise than a product.
    """

    values: Tensor
    divides: bool

    def __call__(self, latents: Tensor, position: int) -> Tensor:
        """The scaled `latents`."""
        return latents / self.values[position] if self.divides else latents * self.values[position]

    def to(self, device: torch.device | str) -> Scaling:
        """The same on another device."""
        return Scaling(self.values.to(device), self.divides)


class Scalings:
    """Learns what a scheduler does to latents at each position."""

    def __init__(self) -> None:
        self._found: dict[int, dict[bool, Tensor]] = {}
        self._random = torch.Generator().manual_seed(0)

    def note(self, own: Callable[[Tensor], Tensor], sample: Tensor, position: int) -> None:
        """Try the scheduler's code, `own`, on numbers of the dtype of `sample`.

        Its factors are of single precision: 1 in double precision shows them, and their inverses, as they are.

        Raises:
            WiringError: it does not multiply by a number.
        """
        if position in self._found:
            return
        unit = own(sample.new_ones(1, dtype=torch.float64))[0]
        drawn = torch.randn(TRIED, generator=self._random).to(sample)
        scaled, values = own(drawn), {False: unit.float(), True: unit.reciprocal().float()}
        by_name = {divides: Scaling(value.reshape(1), divides) for divides, value in values.items()}
        fitting = {divides: values[divides] for divides, each in by_name.items() if torch.equal(each(drawn, 0), scaled)}
        if not fitting:
            raise WiringError("the scheduler changes the latents by more than a factor: record trajectories instead")
        self._found[position] = {divides: value.cpu() for divides, value in fitting.items()}

    def found(self, positions: int) -> Scaling | None:
        """What was learned; None if latents stay as they are, or are never scaled.

        Raises:
            WiringError: some positions were not seen, or are not all products or all quotients.
        """
        if all(float(value) == 1 for values in self._found.values() for value in values.values()):
            return None
        for divides in (False, True):
            values = [found[divides] for _, found in sorted(self._found.items()) if divides in found]
            if len(values) == positions:
                return Scaling(torch.stack(values), divides)
        raise WiringError("the scheduler scales the latents at some steps only: record trajectories instead")
