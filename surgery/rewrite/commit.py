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
from surgery.graph.codegen import set_edit
from surgery.graph.scope import Scope
from surgery.graph.state import own_class
from surgery.rewrite.edit import Edit, rewired_scopes
from surgery.rewrite.edited import aliases_of, edit_scope
from surgery.rewrite.plan import Plan, plan
from surgery.rewrite.removed import Removed
from surgery.rewrite.replacement import Copy, New, Replacement, Rewiring, Sharing
from surgery.rewrite.rule import Rule
from surgery.trace import trace
from surgery.trace.tracer import record

RECORD = "_surgery_record"


@dataclass(frozen=True)
class Record:
    """What a student carries with it.

    Attributes:
        commits: the edits of each call of `rewrite`, in order.
        replaced: what stood where something else stands now, by path, the oldest of each place (on the meta device if
            the student was loaded).
    """

    commits: tuple[tuple[Edit, ...], ...]
    replaced: Mapping[str, nn.Module]

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits, in order."""
        return tuple(edit for edits in self.commits for edit in edits)


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
    return commit(model, planned.edits, seed)


def require_no_conflicts(planned: Plan) -> None:
    """Raise RewriteError if edits of the plan conflict."""
    if planned.conflicts:
        first = planned.conflicts[0]
        more = f" (and {len(planned.conflicts) - 1} more)" if len(planned.conflicts) > 1 else ""
        raise RewriteError(f"{first}{more}; {first.remedy}")


def commit(graph: ModelGraph, edits: Sequence[Edit], seed: int = 0) -> nn.Module:
    """A copy of the traced model with `edits` made. It is given out only when every edit has succeeded."""
    student = copy.deepcopy(graph.model)
    before = record_of(student)
    replaced = dict(before.replaced) if before else {}
    aliases = rewired_aliases(student, edits)
    for path, old in make_modules(student, edits, seed).items():
        replaced.setdefault(path, old)
    rewire(student, edits, replaced, graph.scopes, aliases)
    set_record(student, Record((*(before.commits if before else ()), tuple(edits)), replaced))
    return student


def make_modules(student: nn.Module, edits: Sequence[Edit], seed: int | None) -> dict[str, nn.Module]:
    """Put the new modules of `edits` into `student`, with random weights and, unless `seed` is None, what they inherit.

    Returns:
        What stood in their places before.
    """
    replaced: dict[str, nn.Module] = {}
    for edit in edits:
        for path, new in _new_modules(student, edit, seed).items():
            parent, _, name = path.rpartition(".")
            if name in student.get_submodule(parent)._modules:
                replaced.setdefault(path, student.get_submodule(path))
            put(student, path, new)
    return replaced


def rewired_aliases(student: nn.Module, edits: Sequence[Edit]) -> dict[str, dict[str, str]]:
    """For each module whose graph `edits` change, what is the same in it before they are made."""
    return {path: aliases_of(student.get_submodule(path)) for path in rewired_scopes(edits)}


def rewire(
    student: nn.Module, edits: Sequence[Edit], replaced: Mapping[str, nn.Module], scopes: Mapping[str, Scope],
    aliases: Mapping[str, Mapping[str, str]],
) -> None:  # fmt: skip
    """Let the modules of `student` whose graphs `edits` change run the edited graphs.

    Args:
        student: with all new modules.
        edits: of one commit.
        replaced: what they have taken out, by path.
        scopes: of the model that they were planned for; of a loaded student none, which are recorded when it is called.
        aliases: `rewired_aliases` from before they were made.
    """
    gone = {path for edit in edits if edit.place is not None for path in edit.paths}
    for path, bound in rewired_scopes(edits).items():
        module = student.get_submodule(path)
        prefix = f"{path}." if path else ""
        originals = {p.removeprefix(prefix): replaced[p] for p in gone if p.startswith(prefix)}
        scope = scopes.get(path) or Scope(path, own_class(module))
        edit_scope(module, scope, bound, originals, scopes, record, aliases[path])


def undo(student: nn.Module) -> nn.Module:
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
    original, old = copy.deepcopy((student, dict(known.replaced)))
    restore(original, known, old)
    return original


def restore(model: nn.Module, known: Record, replaced: Mapping[str, nn.Module]) -> None:
    """Give `model` what was `replaced` back, the newest first, and its own forwards."""
    for path, old in reversed(list(replaced.items())):
        put(model, path, old)
    for edit in known.edits:
        for path in edit.modules.values():
            parent, _, name = path.rpartition(".")
            delattr(model.get_submodule(parent), name)
    for path in rewired_scopes(known.edits):
        set_edit(model.get_submodule(path), None)
    delattr(model, RECORD)


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


def _new_modules(student: nn.Module, edit: Edit, seed: int | None) -> dict[str, nn.Module]:
    """What `edit` puts into `student`, by path."""
    replacement = edit.replacement
    if isinstance(replacement, Replacement):
        new = _made(edit, edit.paths[0], replacement, [_module_at(student, edit.paths[0])], seed)
        return dict.fromkeys(edit.paths, new)
    if isinstance(replacement, Sharing):
        return _shared(student, edit.paths, replacement.average and seed is not None)
    made = {path: _wired(student, edit, replacement, name, seed) for name, path in edit.modules.items()}
    return made | {path: Removed(path) for path in edit.paths}


def _wired(student: nn.Module, edit: Edit, rewiring: Rewiring, name: str, seed: int | None) -> nn.Module:
    """The new module called `name`."""
    new = rewiring.modules[name]
    assert edit.place is not None
    scope = student.get_submodule(edit.place.scope)

    def matched(of: str) -> nn.Module:
        assert edit.place is not None
        anchor = edit.place.nodes[of][0]
        if anchor.op != "call_module":
            raise RewriteError(f"{edit.path}: {name} is initialised from {of}, which is no module")
        return _module_at(scope, anchor.target)

    if isinstance(new, Copy):
        return copy.deepcopy(matched(new.of))
    sources = [matched(of) for of in new.sources]
    return _made(edit, edit.modules[name], new, sources or [scope], seed)


def _shared(student: nn.Module, paths: Sequence[str], average: bool) -> dict[str, nn.Module]:
    """The first module in the places of all; with the mean of their weights, if wanted."""
    modules = [_module_at(student, path) for path in paths]
    first = copy.deepcopy(modules[0]) if average else modules[0]
    if average:
        states = [module.state_dict() for module in modules]
        with torch.no_grad():
            for name, mean in first.state_dict().items():
                if mean.is_floating_point():
                    mean.copy_(torch.stack([state[name] for state in states]).mean(0))
    return dict.fromkeys(paths if average else paths[1:], first)


def _made(edit: Edit, path: str, new: Replacement | New, near: Sequence[nn.Module], seed: int | None) -> nn.Module:
    """A new module on the device, in the dtype and mode of those `near`; the caller's random state is left alone."""
    like = next((p for m in near for p in m.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_stream(seed or 0, path))
        module = new.build().to(device=like.device, dtype=like.dtype)
    if seed is None:
        return module
    try:
        if isinstance(new, Replacement):
            new.initialise(module, near[0])
        else:
            new.initialise(module, list(near) if new.sources else [])
    except Exception as error:
        raise RewriteError(f"{edit.path}: cannot initialise {new.operator.kind}: {error}") from error
    return module.train(near[0].training)


def _stream(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:8], "little") >> 1
