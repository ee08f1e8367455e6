"""Rules: pattern, check, replacement, initialisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, SerializeAsAny

from surgery.kinds import Kinded
from surgery.losses import LossName
from surgery.rewriting.pattern import Pattern
from surgery.rewriting.replacement import Replacement, Resizing, Rewiring, Sharing
from surgery.rewriting.selection import AllLayers, Selection
from surgery.rewriting.site import Site


class Rule(Kinded, ABC):
    """One declarative edit.

    A subclass gives the pattern and says by what a site is replaced; it is data, so it has equality and JSON, where its
    `kind` names it.

    Attributes:
        pattern: where the rule may apply.
        layers: in which layers it is to apply.
        loss: how a new operator's output is compared with the old one's in distillation (the paper: L1 for attention).
        shared: what becomes of a module that stands in several places: one new module "together", or one for each place
            ("apart").
    """

    model_config = ConfigDict(validate_default=True)

    pattern: Pattern
    layers: Selection = AllLayers()
    loss: LossName = "l1"
    shared: Literal["together", "apart"] = "together"

    @property
    def name(self) -> str:
        """How plans and errors call the rule."""
        return type(self).__name__

    def check(self, site: Site) -> str | None:  # noqa: ARG002
        """A reason not to apply the rule at `site`, or None."""
        return None

    def place(self, site: Site) -> Site:
        """Where a rewiring or resizing is made: at the site, or at something inside what matched."""
        return site

    @abstractmethod
    def replacement(self, site: Site) -> Replacement | Rewiring | Resizing | Sharing:
        """What goes to `site`."""


AnyRule = Annotated[SerializeAsAny[Rule], BeforeValidator(Rule.from_data)]
"""A pydantic field for any rule, a user's own included."""
