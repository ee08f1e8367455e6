"""Attributes of modules that a forward sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from surgery.recording.torch_private import pytree


@dataclass(frozen=True)
class AttributeChange:
    """What a forward sets in its module, or in one below it.

    Attributes:
        path: names that lead to the module.
        name: of the attribute.
        spec: structure of its value.
    """

    path: tuple[str, ...]
    name: str
    spec: pytree.TreeSpec

    def apply(self, module: nn.Module, leaves: Sequence[Any]) -> None:
        """Set the attribute; `leaves` are those of its value."""
        setattr(module.get_submodule(".".join(self.path)), self.name, pytree.tree_unflatten(leaves, self.spec))
