"""Edit the architecture of a pretrained diffusion transformer by graph rewriting.

The names below are the public surface; they are imported on first use, so that `import surgery` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.artifact import load, save
    from surgery.graph import ModelGraph
    from surgery.pipelines import measure
    from surgery.rewriting import plan, rewrite, undo
    from surgery.run.stages import apply
    from surgery.tracing import trace

__version__: str
__all__ = ["ModelGraph", "apply", "load", "measure", "plan", "rewrite", "save", "trace", "undo"]

_HOMES = {
    "ModelGraph": "surgery.graph",
    "apply": "surgery.run.stages",
    "load": "surgery.artifact",
    "measure": "surgery.pipelines",
    "plan": "surgery.rewriting",
    "rewrite": "surgery.rewriting",
    "save": "surgery.artifact",
    "trace": "surgery.tracing",
    "undo": "surgery.rewriting",
}


if not TYPE_CHECKING:  # a type checker would believe that every name exists

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return import_module("importlib.metadata").version("surgery")
        if name not in _HOMES:
            raise AttributeError(f"module 'surgery' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
