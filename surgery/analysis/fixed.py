"""Tensors that a forward makes of sizes and of the model's own tensors alone, such as a causal mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from surgery.analysis.roles.flow import Flow, ScopedNode
from surgery.analysis.roles.primitives import name_of
from surgery.analysis.small_run import SmallRun, evaluated, is_written
from surgery.recording.paths import below, parent_and_name

LARGEST = 1 << 26
"""Elements of a tensor that is not made any more."""


class _OfInputsError(Exception):
    """What is asked for depends on the values of the model's inputs, or on values that nobody has."""


def fixed_tensor(flow: Flow, model: nn.Module, place: ScopedNode) -> Tensor | None:
    """What is at `place` for the traced sizes, on the CPU; None if the model's inputs have a say in it.

    Parameters are random numbers there: what is true of it stays true in training.
    """
    made = place[1].meta.get("val")
    if not isinstance(made, Tensor) or made.numel() > LARGEST:
        return None
    try:
        with torch.no_grad():
            value = _Fixed(flow, model).value(place)
    except Exception:  # whatever keeps it from being made, it is not known
        return None
    return value if isinstance(value, Tensor) and not value.is_meta else None


class _Fixed(SmallRun):
    """Runs what leads to a place, at the traced sizes."""

    def __init__(self, flow: Flow, model: nn.Module) -> None:
        super().__init__(flow, prefix=())
        self._model = model

    def given(self, place: ScopedNode) -> Any:
        """Numbers as traced, the model's own tensors, and of a tensor what its kind tells."""
        path, node = place
        if node.op == "get_attr":
            return self._own(below(path, str(node.target)))
        if name_of(node) == "getattr":
            return _of_kind(node)
        value = node.meta.get("val")
        return value if isinstance(value, int | float) else None

    def call(self, place: ScopedNode, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the function gives, if no argument is an input of the model or rests on one."""
        _, node = place
        given = (*args, *kwargs.values())
        if any(isinstance(value, Tensor) and value.is_meta for value in given) or is_written(node):
            raise _OfInputsError
        return evaluated(node, args, kwargs)

    def _own(self, path: str) -> Tensor:
        holder, name = parent_and_name(path)
        tensor = getattr(self._model.get_submodule(holder), name)
        if isinstance(tensor, nn.Parameter):
            generator = torch.Generator().manual_seed(0)
            return torch.randn(tensor.shape, device="cpu", generator=generator).to(tensor.dtype)
        if tensor.is_meta:
            raise _OfInputsError
        own: Tensor = tensor.detach().cpu()
        return own


def _of_kind(node: fx.Node) -> Any:
    """Device and dtype of a tensor, which do not depend on its values."""
    of, name = node.args[:2]
    if name == "device":
        return torch.device("cpu")
    if name == "dtype" and isinstance(of, fx.Node):
        return of.meta["val"].dtype
    return None
