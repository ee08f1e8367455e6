"""Nested arguments: their leaves by name, copies of them, equality to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Arguments = dict[str, Any]
"""The keywords of one forward."""


def leaves(arguments: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, lists and tuples by their path, such as "x.0"; None is a leaf."""
    if isinstance(arguments, dict | list | tuple):
        items = arguments.items() if isinstance(arguments, dict) else enumerate(arguments)
        return {name: leaf for key, item in items for name, leaf in leaves(item, below(path, key)).items()}
    return {path: arguments}


def with_leaves(arguments: Any, new: Callable[[str, Any], Any], path: str = "") -> Any:
    """A copy of `arguments` with `new(path, leaf)` in place of each leaf."""
    if isinstance(arguments, dict):
        return {key: with_leaves(item, new, below(path, key)) for key, item in arguments.items()}
    if isinstance(arguments, list | tuple):
        return type(arguments)(with_leaves(item, new, below(path, i)) for i, item in enumerate(arguments))
    return new(path, arguments)


def below(path: str, key: Any) -> str:
    """The path of an item of what stands at `path`."""
    return f"{path}.{key}" if path else str(key)


def cloned(value: Any) -> Any:
    """A copy of a nested value whose tensors share no memory with it."""
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, value)


def kept(value: Any) -> Any:
    """A copy of a nested value on the CPU: what is measured there holds on every device."""
    return pytree.tree_map(lambda leaf: leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf, value)


def moved(value: Any, device: torch.device | str) -> Any:
    """A nested value with its tensors on `device`."""
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def same(a: Any, b: Any) -> bool:
    """Whether two leaves are of one kind and equal to the bit."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and (_same_memory(a, b) or torch.equal(a, b))
    return type(a) is type(b) and not isinstance(a, Tensor) and bool(a == b)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.data_ptr() == b.data_ptr() != 0 and a.stride() == b.stride()


def prediction(output: Any) -> Any:
    """What a denoiser predicts: its first output, a tensor or, for some, a list with one for each sample."""
    if isinstance(output, dict):
        output = tuple(output.values())
    return output[0] if isinstance(output, tuple) else output


def stacked(predicted: Any) -> Tensor:
    """A prediction as one tensor: of a list, the samples stacked."""
    return predicted if isinstance(predicted, Tensor) else torch.stack(list(predicted))


def rows_of(predicted: Any, rows: int) -> Tensor:
    """The elements of a prediction as (rows, elements of one)."""
    if isinstance(predicted, Tensor):
        return predicted.reshape(rows, -1)
    return torch.stack([p.reshape(-1) for p in predicted]).reshape(rows, -1)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a nested value, in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


class Lent:
    """A nested value that is handed out again and again: it is made anew only after somebody wrote into its tensors."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, False
        self._value: Any = None
        self._versions: list[int] = []

    def __call__(self) -> Any:
        """The value, as it was made."""
        if not self._made or [tensor._version for tensor in tensors_in(self._value)] != self._versions:
            self._value, self._made = self._make(), True
            self._versions = [tensor._version for tensor in tensors_in(self._value)]
        return self._value
