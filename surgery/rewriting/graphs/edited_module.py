"""Modules whose graph was edited, and how their other ways through come about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from surgery.errors import RewriteError
from surgery.graph import ModelGraph
from surgery.recording.generated import EditedTrace, NotEdited, RecordCall, edit_of, set_edit
from surgery.recording.parameters import dtype_of
from surgery.recording.paths import put
from surgery.recording.recording import Recording, Scope
from surgery.recording.skeleton import sharing, skeleton
from surgery.rewriting.graphs.rewired import Bound, rewired

Steps = tuple[tuple[Bound, ...], ...]


@dataclass
class EditedScope(EditedTrace):
    """What a module with an edited graph carries.

    A call that no recording covers is recorded from the module as it was before; then the edits are made to that
    recording as well, each step to the outcome of the one before.

    Attributes:
        steps: the edits of each commit.
        aliases: `aliases_of` the module before each step: what stands in several places is recorded under the first.
        originals: modules that were taken out, on the meta device, by their paths below this one.
        dtype: of the module when they were taken out.
    """

    steps: Steps = ()
    aliases: tuple[Mapping[str, str], ...] = ()
    originals: Mapping[str, nn.Module] = field(default_factory=dict)
    dtype: torch.dtype | None = None

    def __deepcopy__(self, memo: Any) -> EditedScope:
        """Copies of the module share its recordings, which say themselves when they apply."""
        return self

    def extend(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record `module` on inputs, or with attributes, that no recording covers, and edit the new recording."""
        found: dict[str, Scope] = {}
        self.record(self._before(module), found, self.scope.path, args, kwargs, alone=True)
        for recording in found[self.scope.path].recordings:
            for step, aliases in zip(self.steps, self.aliases, strict=True):
                try:
                    recording = rewired(recording, step, found, aliases)
                except RewriteError as error:
                    raise NotEdited(str(error)) from error
            recording.compile()
            self.scope.add(recording)

    def _before(self, module: nn.Module) -> nn.Module:
        """A copy of `module` as it was before any edit of its graph.

        It has the weights that are still there, for a forward that reads values; those of `originals` are unknown.
        """
        twin = sharing(module)
        set_edit(twin, None)
        _take_apart(twin, self.aliases[0])
        for bound in (each for step in self.steps for each in step):
            for name in bound.rewiring.fresh:
                delattr(twin, bound.modules[name])
        was_cast = dtype_of(twin) != self.dtype  # what is gone has not followed
        for path, original in self.originals.items():
            old = skeleton(original)
            put(twin, path, old.to(dtype_of(twin)) if was_cast else old)
        for part in twin.modules():  # past `__setattr__`: the code around may be recorded right now
            vars(part)["training"] = module.training
        return twin


def made_names(module: nn.Module) -> set[str]:
    """The names in `module` of what earlier edits of its graph put in."""
    before = edit_of(module)
    steps = before.steps if isinstance(before, EditedScope) else ()
    return {name for step in steps for bound in step for name in bound.modules.values()}


def recorded_scope(module: nn.Module, scope: Scope) -> Scope:
    """The scope whose recordings the next edits of the graph of `module` are made to."""
    before = edit_of(module)
    return before.scope if before else scope


def edited_recordings_of(graph: ModelGraph, path: str, bound: Sequence[Bound]) -> list[Recording]:
    """The recordings of the scope at `path` with the edits `bound` made to them.

    Raises:
        RewriteError: they do not give a well-formed graph.
    """
    module = graph.model.get_submodule(path)
    known, aliases = recorded_scope(module, graph.scopes[path]), aliases_of(module)
    return [rewired(recording, bound, graph.scopes, aliases) for recording in known.recordings]


def edit_scope(
    module: nn.Module, scope: Scope, recordings: list[Recording], bound: Sequence[Bound],
    originals: Mapping[str, nn.Module], record: RecordCall, aliases: Mapping[str, str],
) -> None:  # fmt: skip
    """Let `module` run the edited `recordings`.

    Args:
        module: in the student; new modules are in it already.
        scope: before the edits.
        recordings: its recordings with the edits made to them.
        bound: the edits.
        originals: modules that the edits take out, by their paths below `module`.
        record: how to record, see `surgery.trace`.
        aliases: `aliases_of` the module before this commit.
    """
    before = edit_of(module)
    assert before is None or isinstance(before, EditedScope)
    set_edit(
        module,
        EditedScope(
            Scope(scope.path, scope.module_class, recordings, scope.params),
            record,
            (*(before.steps if before else ()), tuple(bound)),
            (*(before.aliases if before else ()), aliases),
            {**{path: skeleton(old) for path, old in originals.items()}, **(before.originals if before else {})},
            before.dtype if before else dtype_of(module),
        ),
    )


def aliases_of(module: nn.Module) -> dict[str, str]:
    """The first path of each module below `module`, by all of its paths."""
    first: dict[int, str] = {}
    return {path: first.setdefault(id(m), path) for path, m in module.named_modules(remove_duplicate=False)}


def _take_apart(module: nn.Module, aliases: Mapping[str, str]) -> None:
    """Give places in `module` that were not one by `aliases` modules of their own: they came to share one later."""
    for path, first in aliases_of(module).items():
        if path != first and aliases.get(path) == path:
            put(module, path, sharing(module.get_submodule(path)))
