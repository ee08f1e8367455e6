"""Which layers a rule applies to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from surgery.config import Config
from surgery.errors import MatchError


class AllLayers(Config):
    """Every layer."""

    kind: Literal["all"] = "all"

    def select(self, layers: Sequence[int]) -> set[int]:
        """The chosen ones of `layers`."""
        return set(layers)

    def __str__(self) -> str:
        return "all_layers()"


class Every(Config):
    """The last of each group of `n` layers: for n = 2 the layers 1, 3, 5, ..., the paper's 50 %."""

    kind: Literal["every"] = "every"
    n: int = Field(gt=0)

    def select(self, layers: Sequence[int]) -> set[int]:
        """The chosen ones of `layers`."""
        return {layer for layer in layers if layer % self.n == self.n - 1}

    def __str__(self) -> str:
        return f"every({self.n})"


class Indices(Config):
    """The layers listed."""

    kind: Literal["indices"] = "indices"
    layers: tuple[int, ...] = Field(min_length=1)

    def select(self, layers: Sequence[int]) -> set[int]:
        """The chosen ones of `layers`.

        Raises:
            MatchError: a listed layer does not exist.
        """
        missing = sorted(set(self.layers) - set(layers))
        if missing:
            there = f"0 to {max(layers)}" if layers else "none"
            raise MatchError(f"{self}: no such layer: {', '.join(map(str, missing))}; the model's layers are {there}")
        return set(self.layers)

    def __str__(self) -> str:
        return f"indices({', '.join(map(str, self.layers))})"


Selection = Annotated[AllLayers | Every | Indices, Field(discriminator="kind")]


def all_layers() -> AllLayers:
    """Select every layer."""
    return AllLayers()


def every(n: int) -> Every:
    """Select the last of each group of `n` layers (every second layer for n = 2: layers 1, 3, 5, ...)."""
    return Every(n=n)


def indices(*layers: int) -> Indices:
    """Select the layers with these numbers, counted from 0 in execution order."""
    return Indices(layers=layers)
