"""Counting floating point operations while a model runs, on any device, the meta device included."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):
    """Adds up the operations of every matrix product, convolution and attention kernel that runs inside it.

    A multiply-add counts as two, as in the paper. Formulas are those registered with `torch.utils.flop_counter`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=result))
        return result


def count_flops(module: torch.nn.Module, *args: Any, **kwargs: Any) -> int:
    """Floating point operations of one forward pass of `module` on the given inputs."""
    with torch.no_grad(), FlopCounter() as counter:
        module(*args, **kwargs)
    return counter.total
