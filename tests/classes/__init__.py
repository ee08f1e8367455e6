"""Tiny configurations of every transformer class that diffusers exports, and how they are compared with their traces."""

from __future__ import annotations

import importlib
import pkgutil

from tests.classes.case import Case

__all__ = ["Case", "all_cases"]


def all_cases() -> list[Case]:
    """Every case that a module of this folder lists, by name."""
    names = (m.name for m in pkgutil.iter_modules(__path__) if m.name not in ("__main__", "test_classes"))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return sorted((case for module in modules for case in getattr(module, "CASES", ())), key=lambda case: case.name)
