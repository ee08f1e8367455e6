"""Rules: pattern, check, replacement, initialisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import nn

from surgery.config import Config
from surgery.operators import AnyOperator, MixerDims, MLPDims, Policy
from surgery.rewrite.pattern import OperatorPattern
from surgery.rewrite.selection import AllLayers, Selection
from surgery.rewrite.site import Site


class Replacement(Config):
    """The right-hand side of an edit, as plain data: enough to build the new module again.

    Attributes:
        operator: the new operator's config.
        dims: the sizes that it takes over from the module that it replaces.
        inherit: which weights it takes over.
    """

    operator: AnyOperator
    dims: MixerDims | MLPDims
    inherit: Policy

    def build(self) -> nn.Module:
        """A fresh module with random weights, on torch's default device."""
        return self.operator.build(self.dims)

    def initialise(self, new: nn.Module, old: nn.Module) -> None:
        """Give `new` what it inherits from `old`."""
        with torch.no_grad():
            new.inherit(old, self.inherit)  # type: ignore[operator]


class Rule(Config, ABC):
    """One declarative edit.

    A subclass gives the pattern and says by what a site is replaced; it is data, so it has equality and JSON.

    Attributes:
        pattern: where the rule may apply.
        layers: in which layers it is to apply.
        loss: how a new operator's output is compared with the old one's in distillation (the paper: L1 for attention).
    """

    pattern: OperatorPattern
    layers: Selection = AllLayers()
    loss: Literal["l1", "l2", "huber"] = "l1"

    @property
    def name(self) -> str:
        """How plans and errors call the rule."""
        return type(self).__name__

    def check(self, site: Site) -> str | None:  # noqa: ARG002
        """A reason not to apply the rule at `site`, or None."""
        return None

    @abstractmethod
    def replacement(self, site: Site) -> Replacement:
        """What goes to `site`."""
