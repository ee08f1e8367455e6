"""Trying what is new: it is run on the meta device, at several sizes, before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from surgery.errors import RewriteError, first_line
from surgery.recording.cost import FlopCounter, cost_of
from surgery.recording.describe import Describer, Description
from surgery.recording.own_modes import OnMeta
from surgery.recording.parameters import first_floating
from surgery.rewriting.replacement import New, Replacement
from surgery.rewriting.site import Site
from surgery.rewriting.words import size, words


class Cost(NamedTuple):
    """Parameters, and floating point operations of one call: all, and those of mixing alone."""

    params: int
    flops: int
    flops_mixing: int


class Trial:
    """Builds and runs new modules; equal ones at places of equal sizes once."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave when `key` was met first."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def module(self, path: str, new: Replacement | New, like: nn.Parameter | None) -> nn.Module:
        """A new module on the meta device, in the dtype of `like`, for the site at `path`."""
        key = ("built", new, None if like is None else like.dtype)
        module: nn.Module = self.once(key, lambda: built(path, new, like))
        return module

    def run(self, path: str, new: Replacement | New, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Cost]:
        """What the new module gives, and what that costs.

        Raises:
            RewriteError: it fails.
        """

        def run() -> tuple[Any, Cost]:
            with FlopCounter() as counter:
                result = called(path, new.operator.kind, module, args, kwargs)
            flops, mixing = cost_of(module, (args, kwargs), counter.total)
            return result, Cost(sum(p.numel() for p in module.parameters()), flops, mixing or 0)

        key = ("run", id(module), str(pytree.tree_map(shape_and_dtype, (args, kwargs))))
        outcome: tuple[Any, Cost] = self.once(key, run)
        return outcome

    def near(self, site: Site) -> nn.Parameter | None:
        """A parameter that tells the dtype of what is around `site`."""
        matched = (first_floating(item.module) for item in site.items.values() if item.is_module)
        scope = site.graph.model.get_submodule(site.scope)
        around = self.once(("near", site.scope), lambda: first_floating(scope))
        return next((p for p in matched if p is not None), around)


def built(path: str, new: Replacement | New, like: nn.Parameter | None) -> nn.Module:
    """A new module on the meta device, in the dtype of `like`, if there is one.

    Raises:
        RewriteError: it cannot be built.
    """
    try:
        with OnMeta():
            module = new.build()
    except Exception as error:
        raise RewriteError(f"{path}: {new.operator.kind} cannot be built: {first_line(error)}") from error
    return module if like is None else module.to(like.dtype)


def called(path: str, what: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
    """What `module`, which is a `what`, gives.

    Raises:
        RewriteError: it fails.
    """
    try:
        with torch.no_grad():
            return module(*args, **kwargs)
    except Exception as error:
        tensors = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        tokens = size(tensors[0]) if tensors else "none"
        raise RewriteError(f"{path}: {what} fails on tokens {tokens}: {first_line(error)}") from error


def require_alike(path: str, result: Any, expected: Any, what: str) -> None:
    """Raise RewriteError if the `result` of `what` has not the shapes and dtypes of what is `expected`."""
    if are_alike(result, expected):
        return
    raise RewriteError(
        f"{path}: {what} gives {words(result)} where {words(expected)} is needed; "
        "choose an operator that keeps the shape, or adapt the rule's check"
    )


def are_alike(a: Any, b: Any) -> bool:
    """Whether both have tensors of the same shapes and dtypes in the same places, and equal constants."""
    return bool(pytree.tree_map(shape_and_dtype, a) == pytree.tree_map(shape_and_dtype, b))


def shape_and_dtype(value: Any) -> Any:
    """What a trial can tell of a value: shape and dtype of a tensor, else the value."""
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value


def situation(site: Site) -> Hashable:
    """What is known of the matched nodes that a trial depends on: their modules, arguments and results."""
    described = _AS_TRACED.describe
    return tuple(
        (item.part.module_class, item.part.params, item.part.flops, described(item.bound), described(item.result))
        for item in site.items.values()
    )


class _AsTraced(Describer):
    """Nodes by their values, and tensors by what a trial can tell; `pytree` would take most of the time of a plan."""

    deepest = math.inf

    def other(self, value: Any, depth: int) -> Description:
        return self.describe(value.meta.get("val"), depth) if isinstance(value, fx.Node) else repr(value)


_AS_TRACED = _AsTraced()
