"""What a tiny configuration of a diffusers class is, as the tests of the tracer use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import diffusers.models.transformers as transformers
import pytest
import torch

Sizes = dict[str, int]


@dataclass(frozen=True)
class Case:
    """A tiny model and inputs for it at several sizes.

    Attributes:
        class_name: a class that `diffusers.models.transformers` exports.
        init: its configuration.
        inputs: keywords of forward at given sizes, called as `inputs(**sizes)`. Values are drawn with torch's global
            generator, so that the caller's seed decides.
        sizes: the model is traced at the first and run at all. They share their keys (batch, height, width, text...).
        variant: tells configurations of one class apart.
    """

    class_name: str
    init: dict[str, Any]
    inputs: Callable[..., dict[str, Any]]
    sizes: tuple[Sizes, ...]
    variant: str = ""

    @property
    def name(self) -> str:
        """What the test of this case is called."""
        return f"{self.class_name}-{self.variant}" if self.variant else self.class_name

    def model(self) -> torch.nn.Module:
        """The model with random weights, in eval mode. A test is skipped where diffusers is older than the class."""
        if not hasattr(transformers, self.class_name):
            pytest.skip(f"diffusers {diffusers.__version__} has no {self.class_name}")
        torch.manual_seed(0)
        model: torch.nn.Module = getattr(transformers, self.class_name)(**self.init)
        return model.eval()

    def example(self, sizes: Sizes | None = None, seed: int = 0) -> dict[str, Any]:
        """Inputs at `sizes`, the first of the case's if None."""
        torch.manual_seed(seed)
        return self.inputs(**(self.sizes[0] if sizes is None else sizes))
