"""Comparing values bit for bit, and models with what they were before."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from surgery.graph import ModelGraph


def require(holds: bool, message: str) -> None:
    """Raise AssertionError with `message` unless `holds`; unlike `assert`, also under `python -O`."""
    if not holds:
        raise AssertionError(message)


def require_same(expected: Any, actual: Any, what: str) -> None:
    """Raise AssertionError unless two values have the same structure and the same leaves, tensors bit for bit."""
    if isinstance(expected, dict) and type(expected) is type(actual):
        differing = ", ".join(sorted(map(str, expected.keys() ^ actual.keys())))
        require(not differing, f"{what}: only one of them has {differing}")
        for key, value in expected.items():
            require_same(value, actual[key], f"{what}: {key}")
        return
    ours, spec = pytree.tree_flatten(expected)
    theirs, other = pytree.tree_flatten(actual)
    if spec != other:
        raise AssertionError(f"{what}: {_shown(expected)} and {_shown(actual)}")
    different = next(((a, b) for a, b in zip(ours, theirs, strict=True) if not _is_same(a, b)), None)
    if different is not None:
        raise AssertionError(f"{what}: {' and '.join(map(_shown, different))}")


def require_close(expected: Any, actual: Any, what: str, tolerance: float) -> None:
    """Raise AssertionError unless two values have the same structure, and tensors that are equal within `tolerance`."""
    require(pytree.tree_structure(expected) == pytree.tree_structure(actual), f"{what}: the structure differs")
    for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True):
        if isinstance(a, torch.Tensor):
            close = a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
            error = f"by up to {float((a - b).abs().max()):.2g}" if a.shape == b.shape else "in shape"
            require(close, f"{what}: they differ {error}")
        else:
            require(a == b, f"{what}: {a!r} and {b!r}")


def kinds(values: Any) -> Any:
    """`values` with shape and dtype in the place of each tensor."""
    return pytree.tree_map(lambda v: (tuple(v.shape), v.dtype) if isinstance(v, torch.Tensor) else v, values)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The `state_dict` in alphabetic order, detached copies."""
    return {name: tensor.detach().clone() for name, tensor in sorted(model.state_dict().items())}


def classes(model: nn.Module) -> dict[str, type[nn.Module]]:
    """The class of each module by its path, those that stand in several places at each of them."""
    return {path: type(module) for path, module in model.named_modules(remove_duplicate=False)}


def codes(graph: ModelGraph) -> dict[str, list[str]]:
    """The code of every recording of each scope."""
    return {path: [recording.code for recording in scope.recordings] for path, scope in graph.scopes.items()}


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that an edit could change in a model: weights, which modules and tensors there are, classes, attributes."""
    modules = {
        path: (id(module), type(module), module.training, sorted(vars(module)))
        for path, module in model.named_modules(remove_duplicate=False)
    }
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    told = {name: (id(t), t.requires_grad, t.grad is None) for name, t in tensors.items()}
    return {"weights": weights(model), "modules": modules, "tensors": told}


def _is_same(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return type(a) is type(b) and bool(a == b)
    if type(a) is not type(b) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} {value.dtype} with the sum {float(value.detach().double().sum()):.9g}"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
