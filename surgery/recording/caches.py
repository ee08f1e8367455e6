"""The caches of diffusers (`model.enable_cache`) on modules that run a graph.

First-block cache and its like skip blocks: they take for granted that those of the model's lists run one after the other,
each once. A graph may leave some out, run them side by side or call copies that no list has, so they are refused there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

from torch import nn

from surgery.errors import RewriteError
from surgery.recording.state import own_class

OF_ONE_MODULE = ("PyramidAttentionBroadcastConfig", "TaylorSeerCacheConfig")
"""Caches that keep what a module gave for that module alone, wherever it is called."""


def guarded_caches(base: type[nn.Module]) -> dict[str, Callable[..., Any]]:
    """The methods by which a subclass of `base` whose forward is a graph refuses what would make it wrong."""
    own = getattr(base, "enable_cache", None)
    if own is None:
        return {}

    @functools.wraps(own)
    def enable_cache(self: nn.Module, config: Any) -> None:
        if type(config).__name__ not in OF_ONE_MODULE:
            raise _refused(base, type(config).__name__)
        own(self, config)

    return {"enable_cache": enable_cache}


def require_no_shared_cache(module: nn.Module, blocks: Iterable[str]) -> None:
    """Raise RewriteError if hooks of diffusers share a state among the `blocks` of `module`, given by their paths.

    `apply_first_block_cache` and its like put them on without asking the model.
    """
    registries = [vars(_at(module, path)).get("_diffusers_hook") for path in blocks]
    hooks = [hook for registry in registries if registry is not None for hook in registry.hooks.values()]
    states = [hook.state_manager for hook in hooks if hasattr(hook, "state_manager")]
    if any(one is other for one, other in combinations(states, 2)):
        raise _refused(own_class(module), "a cache on its blocks")


def _at(module: nn.Module, path: str) -> nn.Module:
    """As `nn.Module.get_submodule`, of a path that is there, in a ninth of the time."""
    for name in path.split("."):
        module = module._modules[name]  # type: ignore[assignment]
    return module


def _refused(model_class: type[nn.Module], cache: str) -> RewriteError:
    return RewriteError(
        f"{model_class.__name__}: {cache} skips blocks in the order of the original model, which this edited one may not "
        f"have; use no cache, or one of {', '.join(OF_ONE_MODULE)}"
    )
