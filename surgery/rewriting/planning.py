"""Plans: which edits the rules make, which sites they skip and why, and what it costs. Planning changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from surgery.config import Config
from surgery.errors import MatchError, RewriteError
from surgery.graph import ModelGraph
from surgery.recording.recording import Recording
from surgery.rewriting.conflict import Conflict, find_conflicts, require_distinct_names
from surgery.rewriting.edit import AnyEdit, Change, Edit, Skipped, rewired_scopes
from surgery.rewriting.graphs.edited_module import edited_recordings_of
from surgery.rewriting.planner import Planner
from surgery.rewriting.rule import Rule
from surgery.rewriting.totals import count_weights
from surgery.rewriting.trial import Cost
from surgery.tracing import trace

Recordings = dict[str, list[Recording]]
"""Recordings by the path of their scope."""

SHOWN = 300
"""Characters of a thing of the user's that a message shows."""

NO_LIST = (Config, Mapping, str, bytes, Tensor)
"""What can be iterated over, and is not meant as a list."""


class Total(Config):
    """Counts of the whole model, `flops` for one forward on the traced inputs, `flops_mixing` of the edited operators.

    `memory` is that of parameters and buffers, in bytes.
    """

    params: Change
    flops: Change
    flops_mixing: Change
    memory: Change


class Plan(Config):
    """What `rules` do to a model.

    Attributes:
        edits, skipped, conflicts: in execution order of their sites.
        total: of the whole model.
    """

    edits: tuple[AnyEdit, ...]
    skipped: tuple[Skipped, ...]
    conflicts: tuple[Conflict, ...]
    total: Total

    def __repr__(self) -> str:
        counts = f"{len(self.edits)} edits, {len(self.skipped)} skipped, {len(self.conflicts)} conflicts"
        params, flops = self.total.params, self.total.flops
        sizes = f"parameters {params.before:,} -> {params.after:,}, FLOPs {flops.before:,} -> {flops.after:,}"
        return f"Plan({counts}; {sizes})"

    @property
    def before(self) -> Cost:
        """Cost of the model as it is."""
        return Cost(self.total.params.before, self.total.flops.before, self.total.flops_mixing.before)

    @property
    def after(self) -> Cost:
        """Cost of the student."""
        return Cost(self.total.params.after, self.total.flops.after, self.total.flops_mixing.after)


def plan(model: nn.Module | ModelGraph, rules: Sequence[Rule], inputs: Mapping[str, Any] | None = None) -> Plan:
    """Find where `rules` apply to `model` and check every replacement against the shapes around it.

    Args:
        model: a model, or its graph.
        rules: applied together; each sees the model as it was before any of them.
        inputs: keyword arguments of a forward call, needed if `model` is not traced yet.

    Raises:
        MatchError: a rule applies nowhere, or names a layer that does not exist.
        RewriteError: a replacement does not keep the shape or dtype of what it replaces, or its graph is not well-formed.
    """
    return prove(graph_of(model, inputs, "plan"), rules)[0]


def graph_of(model: nn.Module | ModelGraph, inputs: Mapping[str, Any] | None, what: str) -> ModelGraph:
    """The graph of `model`.

    Raises:
        RewriteError: it is none and no model, or has no inputs by name, which `what` needs.
    """
    if isinstance(model, ModelGraph):
        return model
    if not isinstance(model, nn.Module):
        raise RewriteError(
            f"{what}: the model is to be an nn.Module or its graph, and this is neither: {model!r}"[:SHOWN]
        )
    if not isinstance(inputs, Mapping):
        raise RewriteError(f"{what}: a model that is not traced needs inputs=, the keyword arguments of a forward call")
    return trace(model, inputs)


def prove(graph: ModelGraph, rules: Sequence[Rule]) -> tuple[Plan, Recordings]:
    """The plan, and the edited recordings, which prove that the graphs are well-formed and are what a commit uses.

    Raises:
        MatchError, RewriteError: see `plan`.
    """
    planner = Planner(graph)
    for rule in _listed(rules):
        planner.add(rule)
    conflicts = find_conflicts(planner.edits)
    if not conflicts:
        require_distinct_names(planner.edits)
    planned = Plan(
        edits=tuple(planner.edits),
        skipped=tuple(planner.skipped),
        conflicts=tuple(conflicts),
        total=_total(graph, planner.edits),
    )
    return planned, {} if conflicts else edited_recordings(graph, planner.edits)


def _listed(rules: Any) -> list[Rule]:
    """The rules, which may come from a generator, if they are such and there are any."""
    is_one = not isinstance(rules, Iterable) or isinstance(rules, NO_LIST)
    listed = [rules] if is_one else list(rules)
    odd = listed if is_one else [rule for rule in listed if not isinstance(rule, Rule)]
    if odd:
        is_list = isinstance(odd[0], list | tuple) and not is_one
        words = "this item is a list itself, put a * before it" if is_list else "this is not one"
        shown = " ".join(repr(odd[0]).split())  # that of a tensor has several lines
        raise RewriteError(f"rules is to be a list of rules, and {words}: {shown}"[:SHOWN])
    if not listed:
        raise MatchError("there are no rules to apply")
    return listed


def edited_recordings(graph: ModelGraph, edits: Sequence[Edit]) -> Recordings:
    """The recordings of every scope whose graph `edits` change, as they are afterwards.

    Raises:
        RewriteError: an edit does not give a well-formed graph.
    """
    return {path: edited_recordings_of(graph, path, bound) for path, bound in rewired_scopes(edits).items()}


def _total(graph: ModelGraph, edits: Sequence[Edit]) -> Total:
    params, memory = count_weights(graph.model, edits)
    return Total(
        params=params,
        flops=_sum(graph.flops, [e.flops for e in edits]),
        flops_mixing=_sum(sum(e.flops_mixing.before for e in edits), [e.flops_mixing for e in edits]),
        memory=memory,
    )


def _sum(before: int, changes: Sequence[Change]) -> Change:
    return Change(before=before, after=before + sum(c.after - c.before for c in changes))
