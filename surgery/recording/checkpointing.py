"""Gradient checkpointing of a module whose graph was edited."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import fx, nn
from torch.utils.checkpoint import checkpoint

BLOCK = re.compile(r".*\.\d+")


class Checkpointing(fx.Interpreter):
    """Runs a graph and checkpoints the calls of blocks: modules of a list, as diffusers' own forwards do."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        default: Callable[..., Any] = partial(checkpoint, use_reentrant=False)
        self._checkpoint = getattr(module, "_gradient_checkpointing_func", default)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the module at `target`."""
        if BLOCK.fullmatch(target):
            return self._checkpoint(partial(self.fetch_attr(target), **kwargs), *args)
        return super().call_module(target, args, kwargs)
