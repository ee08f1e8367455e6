"""What runs around the forward of a module, or instead of it: what the model brings, and what others put there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from torch import nn

COMPOSED = "__composable_api_state_key"
"""How the names of attributes begin that PyTorch's `fully_shard` and its like keep their state in."""
TABLES = ("_forward_pre_hooks", "_forward_hooks")
FLAGS = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")
"""Where a module keeps what runs around its forward, and how."""


def movers(module: nn.Module) -> dict[str, Any]:
    """What accelerate, diffusers or FSDP put on `module` to move its weights around a call; none of it is the model's."""
    names = ("_hf_hook", "_old_forward", "_diffusers_hook", "forward")
    found = {name: vars(module)[name] for name in names if name in vars(module)}
    found = {} if list(found) == ["forward"] else found
    return found | {name: value for name, value in vars(module).items() if name.startswith(COMPOSED)}


def hooks_of(module: nn.Module) -> Iterator[Callable[..., Any]]:
    """What is called before and after `module`, which may hold on to what cannot be copied."""
    for table in TABLES:
        yield from vars(module)[table].values()


def own_hooks(module: nn.Module) -> Iterator[Callable[..., Any]]:
    """As `hooks_of`, without those by which PyTorch divides weights among processes."""
    return (hook for hook in hooks_of(module) if not _divides(hook))


def own_forward(module: nn.Module) -> Callable[..., Any] | None:
    """The forward that was set on `module` itself; None if that of its class runs."""
    given = vars(module).get("forward")
    if isinstance(given, MethodType) and given.__self__ is module and given.__func__ is type(module).forward:
        return None  # who took a hook off again may have left it on the instance
    return None if "forward" in movers(module) else given


def share_hooks(model: nn.Module, twin: nn.Module) -> None:
    """Let `twin`, a copy of `model`, have its own hooks; methods of its modules become those of their copies."""
    copies = {id(own): copy for own, copy in zip(model.modules(), twin.modules(), strict=True)}
    for module in model.modules():
        new = vars(copies[id(module)])
        for name in TABLES:
            new[name].update((key, _bound(h, copies)) for key, h in vars(module)[name].items() if not _divides(h))
        for name in FLAGS:
            new[name].update(vars(module)[name])


def _bound(hook: Callable[..., Any], copies: dict[int, nn.Module]) -> Callable[..., Any]:
    holder = copies.get(id(hook.__self__)) if isinstance(hook, MethodType) else None
    return hook if holder is None else MethodType(hook.__func__, holder)  # type: ignore[attr-defined]


def _divides(hook: Callable[..., Any]) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.")
