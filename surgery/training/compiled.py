"""Parts of models that run by `torch.compile` for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def compiled(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let calls of these modules run compiled inside the block. Modules of one class and size share their code."""
    before = {module: module._compiled_call_impl for module in modules}
    for module in before:
        module.compile()
    try:
        yield
    finally:
        for module, call in before.items():
            module._compiled_call_impl = call


def unwatched(model: nn.Module) -> Iterator[nn.Module]:
    """The largest modules in `model` that have no forward hook, nor anything in them."""
    for child in model.children():
        is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)  # which is not called itself
        if is_list or any(module._forward_hooks for module in child.modules()):
            yield from unwatched(child)
        else:
            yield child
