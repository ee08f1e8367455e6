"""`trace`: run the model once on the meta device and record it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree

from surgery.errors import SurgeryError, TraceError
from surgery.graph.model_graph import ModelGraph
from surgery.graph.scope import Recording, Scope, forward_signature
from surgery.graph.state import changed
from surgery.trace.builtins import tracked_builtins
from surgery.trace.recorder import Recorder
from surgery.trace.shadow import shadow


def trace(model: nn.Module, inputs: Mapping[str, Any], *, leaf: Iterable[str] = ()) -> ModelGraph:
    """Record `model` on `inputs` as a tree of graphs, one for each opened module.

    The model is not run: a copy of its structure is, on the meta device, without weights or arithmetic. Sizes are
    recorded symbolically, so the graphs hold at other batch sizes, resolutions and text lengths; where they do not, a
    guard says so (see `ModelGraph.module`).

    Args:
        model: any module; its class keeps its Python `forward`.
        inputs: the keyword arguments of one forward call, tensors on any device, meta included.
        leaf: paths of modules to keep closed.

    Raises:
        TraceError: the inputs do not fit the model, a path in `leaf` does not exist, or the forward depends on the
            values of a tensor.
    """
    known = {path for path, _ in model.named_modules()}
    for path in leaf:
        if path not in known:
            raise TraceError(f"leaf={path!r}: {type(model).__name__} has no such module")
    unknown = set(inputs) - set(forward_signature(type(model)).parameters)
    if unknown and not _takes_any(model):
        names = ", ".join(forward_signature(type(model)).parameters)
        raise TraceError(f"{type(model).__name__}.forward takes no {', '.join(sorted(unknown))}; it takes {names}")
    scopes: dict[str, Scope] = {}
    record(model, scopes, "", (), dict(inputs), frozenset(leaf))
    return ModelGraph(model, scopes, record)


def record(
    module: nn.Module,
    scopes: dict[str, Scope],
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: frozenset[str] = frozenset(),
) -> None:
    """Record one call of `module`, which stands at `path`, and add what is new to `scopes`."""
    twin = shadow(module)
    found: dict[str, Scope] = {}
    args, kwargs = pytree.tree_map(_to_meta, (args, kwargs))
    recorder = Recorder(twin, found, path, leaves)
    try:
        # Whoever watches what autograd saves (as checkpointing does) is to see nothing of the recording.
        unwatched = saved_tensors_hooks(lambda x: x, lambda x: x)
        with unwatched, torch.enable_grad(), tracked_builtins(twin), recorder.recording():
            twin(*args, **kwargs)
    except SurgeryError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise TraceError(f"{path or type(twin).__name__}: the forward fails on these inputs: {reason}") from error
    for name, scope in found.items():
        known = scopes.setdefault(name, Scope(name, scope.module_class, params=scope.params))
        for recording in scope.recordings:
            _require_unchanged(module, path, name, recording)
            known.add(recording)


def _require_unchanged(module: nn.Module, root: str, path: str, recording: Recording) -> None:
    """Raise TraceError if a recording rests on attributes that the forward itself sets: its graph would not set them."""
    below = path.removeprefix(root).removeprefix(".")
    attribute = changed(module.get_submodule(below), recording.state)
    if attribute is not None:
        raise TraceError(f"{path or type(module).__name__}: the forward sets {attribute} as it runs; declare it a leaf")


def _to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        blank = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")
        return blank.requires_grad_(value.requires_grad)
    return value


def _takes_any(model: nn.Module) -> bool:
    parameters = forward_signature(type(model)).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)
