"""The shape contract: a replacement is run on the meta device, at several sizes, before anything is changed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from surgery.errors import RewriteError
from surgery.rewrite.rule import Replacement
from surgery.rewrite.site import Site


class Cost(NamedTuple):
    """Parameters, and floating point operations of one call: all, and those of mixing alone."""

    params: int
    flops: int
    flops_mixing: int


def check_contract(site: Site, replacement: Replacement) -> Cost:
    """Run the replacement in the place of what `site` holds, at the traced sizes and at others.

    Raises:
        RewriteError: it fails, or gives another shape or dtype than the module that it replaces.
    """
    try:
        with torch.device("meta"):
            new = replacement.build()
    except Exception as error:
        raise RewriteError(f"{site.path}: {replacement.operator.kind} cannot be built: {_line(error)}") from error
    like = next((p for p in site.module.parameters() if p.is_floating_point()), None)
    new = new if like is None else new.to(like.dtype)
    args, kwargs = site.arguments
    tokens = site.operator.in_shape
    _run(site, replacement, new, args, kwargs, site.node.meta["val"])
    for batch, length in ((tokens[0] + 2, tokens[1]), (tokens[0], 4 * tokens[1]), (tokens[0], 1)):
        call = _resize((args, kwargs, site.node.meta["val"]), tokens, (batch, length))
        _run(site, replacement, new, *call)
    operator, dims = replacement.operator, replacement.dims
    return Cost(
        params=sum(p.numel() for p in new.parameters()),
        flops=operator.flops(dims, *tokens[:2]),
        flops_mixing=operator.flops_mixing(dims, *tokens[:2]),
    )


def _run(site: Site, replacement: Replacement, new: nn.Module, args: Any, kwargs: Any, expected: torch.Tensor) -> None:
    """Call the new module; its result must be like `expected`."""
    kind = replacement.operator.kind
    try:
        with torch.no_grad():
            result = new(*args, **kwargs)
    except Exception as error:
        raise RewriteError(f"{site.path}: {kind} fails on tokens {_shape(expected)}: {_line(error)}") from error
    if not isinstance(result, torch.Tensor) or _kind(result) != _kind(expected):
        raise RewriteError(
            f"{site.path}: {kind} gives {_words(result)} where {_words(expected)} is needed; "
            "choose an operator that keeps the shape, or adapt the rule's check"
        )


def _resize(values: Any, tokens: tuple[int, ...], to: tuple[int, int]) -> Any:
    """Meta tensors of shape (B, N, ...) at another batch size and token count."""

    def resized(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and tuple(value.shape[:2]) == tokens[:2]:
            return value.new_empty((*to, *value.shape[2:]))
        return value

    return pytree.tree_map(resized, values)


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _words(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
