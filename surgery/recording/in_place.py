"""Which functions change their first argument, told by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx


def writes(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether the torch function or method called `name` changes its first argument."""
    is_augmented = name.startswith("__i") and name.endswith("__") and name not in ("__invert__", "__index__")
    is_method = name.endswith("_") and not name.startswith("__")
    return is_augmented or is_method or name in ("setitem", "__setitem__") or "out" in kwargs


def called_name(node: fx.Node) -> str:
    """The name of what `node` calls, underscores and all: they tell what writes."""
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))
