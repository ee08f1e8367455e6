"""What graphs call in place of functions that have no name by which generated code could call them."""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def apply_function(function: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
    """A custom autograd function, its own backward included."""
    return function.apply(*args, **kwargs)  # type: ignore[no-untyped-call]


def run_scripted(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function compiled by `torch.jit.script` or `torch.jit.trace`."""
    return function(*args, **kwargs)


def call_given(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A module that is an argument of the forward."""
    return module(*args, **kwargs)


def reaches_gradient(*tensors: torch.Tensor) -> bool:
    """Whether autograd follows what is computed from `tensors`."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class Array:
    """An array of NumPy in a graph, as it was when it was recorded.

    Args:
        array: is copied.
    """

    def __init__(self, array: Any) -> None:
        self.array = array.copy()

    def __repr__(self) -> str:
        """Two arrays with other contents read differently, so that recordings are told apart by their code."""
        digest = hashlib.sha256(self.array.tobytes()).hexdigest()[:16]
        return f"<array {self.array.dtype} {self.array.shape} {digest}>"


def array_of(recorded: Array) -> Any:
    """A new array, which the caller may change."""
    return recorded.array.copy()
