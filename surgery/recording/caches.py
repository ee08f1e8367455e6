"""The caches of diffusers (`model.enable_cache`) on modules that run a graph.

First-block cache and its like skip blocks: they take for granted that those of the model's lists run one after the other,
each once. A graph may leave some out, run them side by side or call copies that no list has, so they are refused there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from surgery.errors import RewriteError

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
            raise RewriteError(
                f"{base.__name__}: {type(config).__name__} skips blocks in the order of the original model, which this "
                f"edited one may not have; use no cache, or one of {', '.join(OF_ONE_MODULE)}"
            )
        own(self, config)

    return {"enable_cache": enable_cache}
