"""Edit the architecture of a pretrained diffusion transformer by graph rewriting.

The names below are the public surface; they are imported on first use, so that `import surgery` is quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.artifact import load, save
    from surgery.graph import ModelGraph
    from surgery.rewrite import plan, rewrite, undo
    from surgery.runner import apply
    from surgery.trace import trace

__all__ = ["ModelGraph", "apply", "load", "plan", "rewrite", "save", "trace", "undo"]

_HOMES = {
    "ModelGraph": "surgery.graph",
    "apply": "surgery.runner",
    "load": "surgery.artifact",
    "plan": "surgery.rewrite",
    "rewrite": "surgery.rewrite",
    "save": "surgery.artifact",
    "trace": "surgery.trace",
    "undo": "surgery.rewrite",
}


class _Surface(ModuleType):
    """Lets `surgery.trace` and `surgery.rewrite` be the functions although folders have these names too.

    Importing a submodule binds it as an attribute of its package; here that would hide the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'surgery' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *_HOMES})


sys.modules[__name__].__class__ = _Surface
