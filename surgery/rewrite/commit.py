"""Committing a plan to a copy of the model, and taking it back."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from surgery.errors import RewriteError
from surgery.graph import ModelGraph
from surgery.rewrite.plan import Edit, Plan, plan
from surgery.rewrite.rule import Rule
from surgery.trace import trace

RECORD = "_surgery_record"


@dataclass(frozen=True)
class Record:
    """What a student carries with it: its edits, and the modules that they replaced (none if it was loaded)."""

    edits: tuple[Edit, ...]
    replaced: Mapping[str, nn.Module]


def rewrite(
    model: nn.Module | ModelGraph,
    rules: Sequence[Rule],
    inputs: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> nn.Module:
    """Apply `rules` to a copy of `model`; all of them, or none.

    Args:
        model: the teacher, or its graph; never changed.
        rules: see `plan`.
        inputs: keyword arguments of a forward call, needed if `model` is not traced yet.
        seed: of the new operators' random weights; each edit draws from its own stream.

    Returns:
        The student: an instance of the model's class whose untouched parts have the same weights and names.

    Raises:
        MatchError, RewriteError: see `plan`; also if two rules claim the same module.
    """
    if not isinstance(model, ModelGraph):
        model = trace(model, inputs or {})
    planned = plan(model, rules)
    require_no_conflicts(planned)
    return commit(model.model, planned.edits, seed)


def require_no_conflicts(planned: Plan) -> None:
    """Raise RewriteError if two rules of the plan claim the same module."""
    if planned.conflicts:
        more = f" (and {len(planned.conflicts) - 1} more)" if len(planned.conflicts) > 1 else ""
        raise RewriteError(f"{planned.conflicts[0]}{more}; narrow the layers of one of them")


def commit(model: nn.Module, edits: Sequence[Edit], seed: int = 0) -> nn.Module:
    """A copy of `model` with `edits` made. The copy is given out only when every edit has succeeded."""
    student = copy.deepcopy(model)
    before = record_of(student)
    replaced = dict(before.replaced) if before else {}
    for edit in edits:
        old = _module_at(student, edit.path)
        replaced.setdefault(edit.path, old)
        put(student, edit.path, _make(edit, old, seed))
    earlier = before.edits if before else ()
    set_record(student, Record((*earlier, *edits), replaced))
    return student


def undo(student: nn.Module) -> nn.Module:
    """A copy of `student` with every replaced module back in its place, bit for bit.

    Raises:
        RewriteError: `student` was not rewritten, or was loaded from an artifact, which holds no replaced weights.
    """
    record = record_of(student)
    if record is None:
        raise RewriteError(f"undo: this {type(student).__name__} was not rewritten by surgery")
    missing = [e.path for e in record.edits if e.path not in record.replaced]
    if missing:
        raise RewriteError(
            f"undo: the weights replaced at {missing[0]} are not in an artifact; load the base model instead"
        )
    original = copy.deepcopy(student)
    for path, old in record.replaced.items():
        put(original, path, copy.deepcopy(old))
    delattr(original, RECORD)
    return original


def record_of(module: nn.Module) -> Record | None:
    """The record of a student; None for a model that was never rewritten."""
    return vars(module).get(RECORD)


def set_record(student: nn.Module, record: Record) -> None:
    """Attach `record`; as a plain attribute, so that it adds nothing to the `state_dict`."""
    object.__setattr__(student, RECORD, record)


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Let the module at `path` be `module`."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).register_module(name, module)


def _module_at(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise RewriteError(f"{path}: {type(model).__name__} has no such module") from None


def _make(edit: Edit, old: nn.Module, seed: int) -> nn.Module:
    """The new module on the old one's device, in its dtype and mode; the caller's random state is left alone."""
    like = next((p for p in old.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_stream(seed, edit.path))
        new = edit.replacement.build().to(device=like.device, dtype=like.dtype)
    try:
        edit.replacement.initialise(new, old)
    except Exception as error:
        raise RewriteError(f"{edit.path}: cannot initialise {edit.replacement.operator.kind}: {error}") from error
    return new.train(old.training)


def _stream(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:8], "little") >> 1
