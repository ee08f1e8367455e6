"""`trace`: run the model once on the meta device and record it."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from surgery.analysis.roles.layers import blocks_by_holder
from surgery.errors import SurgeryError, TraceError, first_line
from surgery.graph.model_graph import ModelGraph
from surgery.recording.binding import forward_signature
from surgery.recording.generated import edit_of
from surgery.recording.objects import is_object
from surgery.recording.one_thread import one_thread
from surgery.recording.own_modes import OwnDraws
from surgery.recording.paths import relative
from surgery.recording.recording import Recording, Scope
from surgery.recording.skeleton import blank, skeleton
from surgery.recording.state import changed
from surgery.recording.torch_private import DisableTorchFunction, pytree
from surgery.tracing.autocast import without_autocast
from surgery.tracing.devices import Devices, standing_for
from surgery.tracing.known_values import KnownValues
from surgery.tracing.on_meta import StayOnMeta
from surgery.tracing.patches import patched_code
from surgery.tracing.recorder import Recorder
from surgery.tracing.stand_ins import on_meta


def trace(model: nn.Module, inputs: Mapping[str, Any], *, leaf: Iterable[str] = ()) -> ModelGraph:
    """Record `model` on `inputs` as a tree of graphs, one for each opened module.

    The model is not run: a copy of its structure is, on the meta device, without weights or arithmetic. Sizes are
    recorded symbolically, so the graphs hold at other batch sizes, resolutions and text lengths; where they do not, a
    guard says so (see `ModelGraph.module`). An autocast region around this call is left out.

    Args:
        model: any module; its class keeps its Python `forward`.
        inputs: the keyword arguments of one forward call, tensors on any device, meta included.
        leaf: paths of modules to keep closed.

    Raises:
        TraceError: the inputs do not fit the model, a path in `leaf` does not exist, a module keeps a tensor that it
            has computed from its parameters, or the forward depends on the values of a tensor.
    """
    known = {path for path, _ in model.named_modules()}
    for path in leaf:
        if path not in known:
            raise TraceError(f"leaf={path!r}: {type(model).__name__} has no such module")
    _require_arguments(model, inputs)
    scopes: dict[str, Scope] = {}
    with without_autocast():
        record(model, scopes, "", (), dict(inputs), frozenset(leaf))
    return ModelGraph(model, scopes, record)


def _require_arguments(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that are not arguments of the model's forward by name."""
    names, forward = list(forward_signature(type(model)).parameters), f"{type(model).__name__}.forward"
    if not isinstance(inputs, Mapping):
        wanted, given = f"{{{names[0]!r}: ...}}" if names else "{}", type(inputs).__name__
        raise TraceError(f"inputs must give the arguments of {forward} by name, e.g. {wanted}, got a {given}")
    unknown = set(inputs) - set(names)
    if unknown and not _takes_any(model):
        raise TraceError(f"{forward} takes no {', '.join(sorted(map(str, unknown)))}; it takes {', '.join(names)}")


def record(
    module: nn.Module,
    scopes: dict[str, Scope],
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: frozenset[str] = frozenset(),
    alone: bool = False,
) -> None:
    """Record one call of `module`, which stands at `path`, and add what is new to `scopes`.

    A recording on meta tensors is cheap; where it fails, perhaps because the model reads values, one with values follows.
    If `alone`, only the recording of `module` itself is of use: the modules below it may read values that are not known.
    """
    with one_thread():
        try:
            _record(module, scopes, path, args, kwargs, leaves, alone, with_values=False)
        except Exception:
            if all(t.is_meta for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)):
                raise
            _record(module, scopes, path, args, kwargs, leaves, alone, with_values=True)


def _record(
    module: nn.Module,
    scopes: dict[str, Scope],
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    leaves: frozenset[str],
    alone: bool,
    with_values: bool,
) -> None:
    """See `record`."""
    twin = skeleton(module)
    inputs, spec = pytree.tree_flatten((args, kwargs))
    stand_ins, pairs = _stand_ins(inputs)
    found: dict[str, Scope] = {}
    values = KnownValues(module, pairs) if with_values else None
    devices = Devices(module, path, pairs)
    recorder = Recorder(twin, found, devices, path, leaves, values, alone)
    args, kwargs = pytree.tree_unflatten(stand_ins, spec)
    if any(edit_of(part) is not None for part in twin.modules()):
        with standing_for(devices.main):
            _cover(twin, args, kwargs)
    # Whoever watches what autograd saves (as checkpointing does) is to see nothing of the recording. What is saved is
    # detached: a result that its own function saves would keep itself alive.
    unwatched = saved_tensors_hooks(_detached, lambda x: x)
    try:
        with unwatched, OwnDraws(), patched_code(twin), standing_for(devices.main), recorder.recording():
            twin(*args, **kwargs)
    except Exception as error:
        raise TraceError(f"{_where(error, type(module))}: {_reason(error)}") from error
    for name, blocks in blocks_by_holder(found, path).items():
        for recording in found[name].recordings:
            recording.blocks = blocks
    for name, scope in found.items():
        known = scopes.setdefault(name, Scope(name, scope.module_class, params=scope.params))
        for recording in scope.recordings:
            _require_unchanged(module, path, name, recording)
            known.add(recording)


def _detached(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` without what it was computed by; no step of the forward, whoever saves it."""
    with DisableTorchFunction():
        return tensor.detach()


def _cover(twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Let edited graphs record, before the model is recorded around them, what they do not cover yet."""
    with suppress(Exception), OwnDraws(), StayOnMeta(), torch.no_grad():  # what fails, fails again when recorded
        twin(*args, **kwargs)


def _require_unchanged(module: nn.Module, root: str, path: str, recording: Recording) -> None:
    """Raise TraceError if a recording rests on attributes that the forward itself sets: its graph would not set them."""
    attribute = changed(module.get_submodule(relative(path, root)), recording.state)
    if attribute is not None:
        raise TraceError(f"{path or type(module).__name__}: the forward sets {attribute} as it runs; declare it a leaf")


def _stand_ins(inputs: list[Any]) -> tuple[list[Any], list[tuple[torch.Tensor, torch.Tensor]]]:
    """`inputs` on the meta device, one tensor given twice still being one, and every meta tensor with the real one."""
    stand_ins, pairs = list[Any](), list[tuple[torch.Tensor, torch.Tensor]]()
    known: dict[int, torch.Tensor] = {}
    for value in inputs:
        if isinstance(value, torch.Tensor):
            meta = known.setdefault(id(value), blank(value).requires_grad_(value.requires_grad))
            pairs.append((meta, value))
        elif isinstance(value, nn.Module):
            stand_ins.append(skeleton(value))
            continue
        elif is_object(value):
            meta, inside = on_meta(value)
            pairs += inside
        else:
            meta = value
        stand_ins.append(meta)
    return stand_ins, pairs


def _reason(error: Exception) -> str:
    """An error in one line; one that is not surgery's is the model's own."""
    reason = first_line(error)
    return reason if isinstance(error, SurgeryError) else f"the forward fails on these inputs: {reason}"


def _where(error: Exception, module_class: type[nn.Module]) -> str:
    """File and line in the model's own code that the error came from; those of the class's forward if there is none."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if not _is_foreign(f.filename)]
    if lines:
        return f"{lines[-1].filename}:{lines[-1].lineno}"
    code = inspect.unwrap(module_class.forward).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _is_foreign(filename: str) -> bool:
    """Whether a source file belongs to surgery, torch or Python itself."""
    folders = [str(Path(__file__).parents[1]), str(Path(torch.__file__).parent)]
    in_python = filename.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in filename
    return in_python or filename.startswith((*folders, "<")) or filename.endswith(".pyx")


def _takes_any(model: nn.Module) -> bool:
    parameters = forward_signature(type(model)).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)
