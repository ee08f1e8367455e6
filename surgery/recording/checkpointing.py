"""Gradient checkpointing of a module whose graph was edited."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from surgery.recording.recording import Recording
from surgery.recording.state import own_class


class Checkpointing(fx.Interpreter):
    """Runs the graph of a recording and checkpoints the calls of blocks, as diffusers' own forwards do.

    An edit may put in blocks of its own: what has the class of a block and is called beside it is one, too.
    """

    def __init__(self, module: nn.Module, recording: Recording) -> None:
        super().__init__(module, graph=recording.graph)
        default: Callable[..., Any] = partial(checkpoint, use_reentrant=False)
        self._checkpoint = getattr(module, "_gradient_checkpointing_func", default)
        self._blocks = recording.blocks
        self._classes = {own_class(inner) for path, inner in module.named_modules() if path in recording.blocks}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the module at `target`."""
        called = self.fetch_attr(target)
        if target in self._blocks or own_class(called) in self._classes:
            return self._checkpoint(partial(called, **kwargs), *args)
        return super().call_module(target, args, kwargs)
