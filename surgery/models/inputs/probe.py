"""Runs a forward without arithmetic, to see whether inputs fit and, if not, which width a layer expected."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import flex_attention as flex
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from surgery.recording.one_thread import here, one_thread

META, CPU = torch.device("meta"), torch.device("cpu")
LONGEST = 30_000  # functions that a forward may run: on inputs that it is not made for it may never return
LARGEST = 1 << 22  # elements of a tensor that is given values, all zero, as its values are asked for
LARGE = 1 << 16  # elements of a tensor whose values are no longer followed
CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d, functional.conv1d, functional.conv2d, functional.conv3d}
WEIGHTED = {functional.linear, *CONVOLUTIONS}
NORMS = {functional.layer_norm, torch.layer_norm, functional.rms_norm, torch.rms_norm}
ACTIVATIONS = {functional.gelu, functional.silu}
BROADCASTS = {torch.mul, torch.add, torch.Tensor.mul, torch.Tensor.add, torch.Tensor.__mul__, torch.Tensor.__add__,
              torch.Tensor.__rmul__, torch.Tensor.__radd__, torch.cat, torch.concat, torch.where}  # fmt: skip


class WidthError(Exception):
    """A layer was given features of another width than it has weights for.

    Attributes:
        pairs: widths that were given and expected, any of which may be the one that is wrong.
        is_guess: what is expected is only another operand's size.
    """

    def __init__(self, pairs: list[tuple[int, int]], is_guess: bool) -> None:
        super().__init__(f"widths {pairs}")
        self.pairs = pairs
        self.is_guess = is_guess


class Probe(TorchFunctionMode):
    """Runs torch functions on the meta device where they meet weights, and for real where they do not.

    So masks, position ids and all that is computed from them keep their values, which a forward may read. Whatever
    else it reads (the choice of an expert, say) reads as zero: that decides about no shape that an input has.

    Attributes:
        steps: the number of functions that have run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.steps >= LONGEST:
            raise RuntimeError("this forward goes on and on")
        self.steps += 1
        is_attribute = getattr(func, "__name__", "") == "__get__"
        return func(*args) if is_attribute else self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

        def run(change: Callable[[Any], Any]) -> Any:
            args, kwargs = pytree.tree_unflatten([change(leaf) for leaf in leaves], spec)
            return func(*args, **kwargs)

        if not any(t.is_meta or t.numel() > LARGE for t in tensors):
            return run(_with_values)
        _check(func, tensors)
        known = _known(func, args, tensors)
        if known is not None:
            return torch.empty(known, dtype=tensors[0].dtype, device=META)
        try:
            return func(*args, **kwargs) if all(t.is_meta for t in tensors) else run(_on_meta)
        except Exception:
            widths = _widths(func, args, kwargs)
            if widths:
                raise WidthError(widths, is_guess=func in BROADCASTS) from None
            if any(isinstance(t, nn.Parameter) or t.numel() > LARGEST for t in tensors):
                raise
        return run(_with_values)


def _check(func: Any, tensors: list[torch.Tensor]) -> None:
    """Raise what the meta device lets pass: numbers that are no features, and indices of no row of a table."""
    if func in WEIGHTED and not tensors[0].is_floating_point():
        raise TypeError(f"{func.__name__} of {tensors[0].dtype}")
    if func is functional.embedding:
        indices, table = tensors
        if not indices.is_meta and indices.numel() and int(indices.max()) >= len(table):
            raise IndexError(f"{int(indices.max())} of {len(table)} rows")


def _known(func: Any, args: Any, tensors: list[torch.Tensor]) -> Sequence[int] | None:
    """The shape of a result that torch would take most of the time of a trial to tell, or None."""
    shape = tensors[0].shape
    if func is functional.linear and shape[-1] == tensors[1].shape[-1] and tensors[0].dtype == tensors[1].dtype:
        return [*shape[:-1], len(tensors[1])]
    is_norm_that_fits = func in NORMS and len(args) > 1 and shape[-len(args[1]) :] == tuple(args[1])
    return shape if is_norm_that_fits or func in ACTIVATIONS else None


def _on_meta(leaf: Any) -> Any:
    return leaf.to(META) if isinstance(leaf, torch.Tensor) else leaf


def _with_values(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return torch.zeros_like(leaf, device=CPU) if leaf.is_meta else leaf
    return CPU if isinstance(leaf, torch.device) and leaf == META else leaf


def _widths(func: Any, args: Any, kwargs: dict[str, Any]) -> list[tuple[int, int]]:
    """Widths of the features that `func` was given and that it expected, where these differ."""
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dim()]
    if not tensors:
        return []
    first, *others = tensors
    if func in NORMS and len(args) > 1:
        pairs = [(first.shape[-1], args[1][-1])]
    elif not others:
        return []
    elif func is functional.linear:
        pairs = [(first.shape[-1], others[0].shape[-1])]
    elif func in CONVOLUTIONS and first.dim() == others[0].dim():
        pairs = [(first.shape[1], others[0].shape[1] * _groups(args, kwargs))]
    elif func is functional.group_norm and first.dim() > 1:
        pairs = [(first.shape[1], others[0].shape[0])]
    elif func in BROADCASTS:
        widths = {t.shape[-1] for t in tensors}
        pairs = list(itertools.permutations(widths, 2))
    else:
        return []
    return [(given, expected) for given, expected in pairs if given != expected]


def _groups(args: Any, kwargs: dict[str, Any]) -> int:
    return int(args[6] if len(args) > 6 else kwargs.get("groups", 1))


@contextmanager
def unarithmetic() -> Iterator[None]:
    """While this context is open, a `Probe` gets through autocast and FlexAttention, and no gradients are taken."""
    stand_ins = {flex.flex_attention: _flex_attention, flex.create_block_mask: _no_mask}
    plain = torch.autocast.__init__

    def autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        # There is no casting on the meta device, and asking for it is an error.
        if device_type == "meta":
            device_type, args, kwargs = "cpu", (), {"enabled": False}
        plain(self, device_type, *args, **kwargs)

    with one_thread(), ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.autocast, "__init__", here(autocast, plain)))
        for space in list(sys.modules.values()):
            for function, stand_in in stand_ins.items():
                if getattr(space, "__dict__", {}).get(function.__name__) is function:
                    stack.enter_context(mock.patch.object(space, function.__name__, here(stand_in, function)))
        stack.enter_context(torch.no_grad())
        yield


def _flex_attention(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> Any:  # noqa: ARG001
    """Of the shapes of FlexAttention, which refuses to run on the meta device."""
    grouped = bool(options.get("enable_gqa", False))
    return functional.scaled_dot_product_attention(query, key, value, enable_gqa=grouped)


def _no_mask(*args: Any, **options: Any) -> None:  # noqa: ARG001
    return None
