"""Committing a plan to a copy of the model, and taking it back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
from torch import nn

from surgery.errors import RewriteError
from surgery.graph import ModelGraph
from surgery.recording.copying import copied
from surgery.recording.generated import set_edit
from surgery.recording.hooks import share_hooks
from surgery.recording.one_thread import one_thread
from surgery.recording.parameters import first_floating
from surgery.recording.paths import is_inside, parent_and_name, put, relative
from surgery.recording.recording import Scope
from surgery.recording.skeleton import skeleton
from surgery.recording.state import own_class
from surgery.rewriting.collection import without_collection
from surgery.rewriting.edit import Edit, rewired_scopes
from surgery.rewriting.graphs.edited_module import aliases_of, edit_scope
from surgery.rewriting.keep_edits import forget_edits, keep_edits
from surgery.rewriting.make import Maker
from surgery.rewriting.planning import Plan, Recordings, edited_recordings, graph_of, prove
from surgery.rewriting.rule import Rule
from surgery.tracing.tracer import record

RECORD = "_surgery_record"
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Record:
    """What a student carries with it.

    Attributes:
        commits: the edits of each call of `rewrite`, in order.
        replaced: what stood where something else stands now, by path, the oldest of each place (on the meta device if
            the student was loaded).
        like: tells the device and dtype that the student had then.
    """

    commits: tuple[tuple[Edit, ...], ...]
    replaced: Mapping[str, nn.Module]
    like: torch.Tensor | None = None

    def following(self, student: nn.Module) -> dict[str, nn.Module]:
        """What was replaced, moved and cast as the student was since."""
        now, then = first_floating(student), self.like
        if now is None or then is None or (now.dtype, now.device) == (then.dtype, then.device):
            return dict(self.replaced)
        dtype = None if now.dtype == then.dtype else now.dtype
        return {path: old.to(device=_device_for(old, now), dtype=dtype) for path, old in self.replaced.items()}

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits, in order."""
        return tuple(edit for edits in self.commits for edit in edits)


@overload
def rewrite(
    model: Model, rules: Sequence[Rule], inputs: Mapping[str, Any] | None = None, *, seed: int = 0
) -> Model: ...
@overload
def rewrite(model: ModelGraph, rules: Sequence[Rule], inputs: None = None, *, seed: int = 0) -> nn.Module: ...
def rewrite(
    model: nn.Module | ModelGraph,
    rules: Sequence[Rule],
    inputs: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> nn.Module:
    """Apply `rules` to a copy of `model`; all of them, or none.

    A rule with `inherit="fitted"` starts as with "projections": a fit needs data, and `surgery.apply` makes it.

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
    graph = graph_of(model, inputs, "rewrite")
    with one_thread(), without_collection():
        planned, recordings = prove(graph, rules)
        require_no_conflicts(planned)
        return commit(graph, planned.edits, seed, recordings)


def require_no_conflicts(planned: Plan) -> None:
    """Raise RewriteError if edits of the plan conflict."""
    if planned.conflicts:
        first = planned.conflicts[0]
        more = f" (and {len(planned.conflicts) - 1} more)" if len(planned.conflicts) > 1 else ""
        raise RewriteError(f"{first}{more}; {first.remedy}")


def commit(
    graph: ModelGraph,
    edits: Sequence[Edit],
    seed: int = 0,
    recordings: Recordings | None = None,
    *,
    shared: bool = False,
) -> nn.Module:
    """A copy of the traced model with `edits` made. It is given out only when every edit has succeeded.

    Args:
        graph: the traced model.
        edits: without conflicts.
        seed: see `rewrite`.
        recordings: what planning the edits has made, see `prove`; for edits that were read back they are made now.
        shared: lets inherited weights stay in the model's memory; what is trained must be set apart first.
    """
    if recordings is None:
        recordings = edited_recordings(graph, edits)
    if shared:
        student = copied(graph.model, lambda tensor: tensor, replaced_in(graph.model))
    else:
        student = copy.deepcopy(graph.model)
    before = record_of(student)
    replaced = before.following(student) if before else {}
    aliases = rewired_aliases(student, edits)
    for path, old in make_modules(student, edits, seed).items():
        replaced.setdefault(path, old)
    rewire(student, edits, replaced, recordings, aliases)
    set_record(student, Record((*(before.commits if before else ()), tuple(edits)), replaced, _like(student)))
    return student


def make_modules(student: nn.Module, edits: Sequence[Edit], seed: int | None) -> dict[str, nn.Module]:
    """Put the new modules of `edits` into `student`, with random weights and, unless `seed` is None, what they inherit.

    Returns:
        What stood in their places before. The caller's random state is left alone.
    """
    replaced: dict[str, nn.Module] = {}
    maker = Maker(student, seed)
    for edit in edits:
        for path, new in edit.make(maker).items():
            parent, name = parent_and_name(path)
            old = student.get_submodule(parent)._modules.get(name)
            if old is not None:
                replaced.setdefault(path, old)
            put(student, path, new)
    return replaced


def rewired_aliases(student: nn.Module, edits: Sequence[Edit]) -> dict[str, dict[str, str]]:
    """For each module whose graph `edits` change, what is the same in it before they are made."""
    return {path: aliases_of(student.get_submodule(path)) for path in rewired_scopes(edits)}


def rewire(
    student: nn.Module, edits: Sequence[Edit], replaced: Mapping[str, nn.Module], recordings: Recordings,
    aliases: Mapping[str, Mapping[str, str]],
) -> None:  # fmt: skip
    """Let the modules of `student` whose graphs `edits` change run the edited graphs.

    Args:
        student: with all new modules.
        edits: of one commit.
        replaced: what they have taken out, by path.
        recordings: with the edits made; of a loaded student none, they are recorded when it is called.
        aliases: `rewired_aliases` from before they were made.
    """
    scopes = rewired_scopes(edits)
    gone = {path for bounds in scopes.values() for bound in bounds for path in bound.removed}
    for path, bound in scopes.items():
        module = student.get_submodule(path)
        originals = {relative(each, path): replaced[each] for each in gone if is_inside(each, path)}
        scope = Scope(path, own_class(module))
        edit_scope(module, scope, list(recordings.get(path, ())), bound, originals, record, aliases[path])


def undo(student: Model) -> Model:
    """A copy of `student` with every edit taken back, bit for bit.

    Raises:
        RewriteError: `student` was not rewritten, or was loaded from an artifact, which holds no replaced weights.
    """
    known = record_of(student)
    if known is None:
        raise RewriteError(f"undo: this {type(student).__name__} was not rewritten by surgery")
    missing = [path for path, old in known.replaced.items() if any(p.is_meta for p in old.parameters())]
    if missing and not all(p.is_meta for p in student.parameters()):
        raise RewriteError(
            f"undo: the weights replaced at {missing[0]} are not in an artifact; load the base model instead"
        )
    original, old = copy.deepcopy((student, known))
    restore(original, known, old.following(student))
    return original


def _device_for(old: nn.Module, now: torch.Tensor) -> torch.device | None:
    """Where what was replaced goes: what came from an artifact has no weights, and stays on the meta device."""
    return None if any(p.is_meta for p in old.parameters()) else now.device


def _like(student: nn.Module) -> torch.Tensor | None:
    near = first_floating(student)
    return None if near is None else near.detach().new_empty(0)


def skeleton_before(model: nn.Module, *, hooked: bool = False) -> nn.Module:
    """A copy of `model` on the meta device as it was before any edit, with its hooks if it is to be `hooked`."""
    twin = skeleton(model)
    if hooked:
        share_hooks(model, twin)
    known = record_of(twin)
    if known is not None:
        restore(twin, known, known.replaced)
    return twin


def restore(model: nn.Module, known: Record, replaced: Mapping[str, nn.Module]) -> None:
    """Give `model` what was `replaced` back, the newest first, and its own forwards."""
    for path, old in reversed(list(replaced.items())):
        put(model, path, old)
    for path in rewired_scopes(known.edits):
        set_edit(model.get_submodule(path), None)
    for edit in reversed(known.edits):  # a later one may be inside a copy that an earlier one made
        for path in edit.added.values():
            _take_away(model, path)
    delattr(model, RECORD)
    forget_edits(model)


def _take_away(model: nn.Module, path: str) -> None:
    """Delete the module at `path`, unless it stood in one that has given way to what was there before."""
    parent, name = parent_and_name(path)
    try:
        delattr(model.get_submodule(parent), name)
    except AttributeError:
        return


def record_of(module: nn.Module) -> Record | None:
    """The record of a student; None for a model that was never rewritten."""
    return vars(module).get(RECORD)


def replaced_in(module: nn.Module) -> tuple[nn.Module, ...]:
    """What stood in a student where something else stands now."""
    known = record_of(module)
    return tuple(known.replaced.values()) if known else ()


def set_record(student: nn.Module, record: Record) -> None:
    """Attach `record`; as a plain attribute, so that it adds nothing to the `state_dict`."""
    object.__setattr__(student, RECORD, record)
    keep_edits(student)
