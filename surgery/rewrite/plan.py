"""Plans: which edits the rules make, which sites they skip and why, and what it costs. Planning changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import SerializeAsAny
from torch import nn

from surgery.config import Config
from surgery.errors import MatchError, RewriteError
from surgery.graph import ModelGraph
from surgery.rewrite.rule import Replacement, Rule
from surgery.rewrite.site import Site
from surgery.rewrite.validate import Cost, check_contract
from surgery.trace import trace


class Change(Config):
    """A count before and after."""

    before: int
    after: int


class Edit(Config):
    """One replacement, as plain data.

    Attributes:
        path: of the module that is replaced.
        rule: name of the rule.
        layer: number of its block, None outside of blocks.
        replaced: class of the old module.
        replacement: the new one.
        loss: of its distillation.
        params, flops: parameters, and floating point operations of one call on the traced inputs.
        flops_mixing: those of mixing tokens, without projections and featuriser filters, as the paper's table counts.
    """

    path: str
    rule: str
    layer: int | None
    replaced: str
    replacement: Replacement
    loss: Literal["l1", "l2", "huber"]
    params: Change
    flops: Change
    flops_mixing: Change


class Skipped(Config):
    """A site that a rule's pattern matched and that it leaves alone."""

    path: str
    rule: str
    layer: int | None
    reason: str


class Conflict(Config):
    """Two rules that claim the same module, or one inside the other."""

    paths: tuple[str, str]
    rules: tuple[str, str]

    def __str__(self) -> str:
        same = self.paths[0] == self.paths[1]
        where = self.paths[0] if same else f"{self.paths[0]} and {self.paths[1]} inside it"
        return f"{self.rules[0]} and {self.rules[1]} both edit {where}"


class Total(Config):
    """Counts of the whole model, `flops` for one forward on the traced inputs, `flops_mixing` of the edited operators."""

    params: Change
    flops: Change
    flops_mixing: Change


class Plan(Config):
    """What `rules` do to a model.

    Attributes:
        edits, skipped, conflicts: in execution order of their sites.
        total: of the whole model.
    """

    edits: tuple[SerializeAsAny[Edit], ...]
    skipped: tuple[Skipped, ...]
    conflicts: tuple[Conflict, ...]
    total: Total

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
        RewriteError: a replacement does not keep the shape or dtype of what it replaces.
    """
    if not isinstance(model, ModelGraph) and inputs is None:
        raise RewriteError("plan: a model that is not traced needs inputs=, the keyword arguments of a forward call")
    graph = model if isinstance(model, ModelGraph) else trace(model, inputs or {})
    if not rules:
        raise MatchError("there are no rules to apply")
    edits: list[Edit] = []
    skipped: list[Skipped] = []
    for rule in rules:
        chosen, left = _sort_sites(graph, rule)
        skipped += left
        edits += [_edit(rule, site) for site in chosen]
    return Plan(
        edits=tuple(edits),
        skipped=tuple(skipped),
        conflicts=tuple(_conflicts(edits)),
        total=Total(
            params=_total(graph.root.params, [e.params for e in edits]),
            flops=_total(graph.flops, [e.flops for e in edits]),
            flops_mixing=_total(sum(e.flops_mixing.before for e in edits), [e.flops_mixing for e in edits]),
        ),
    )


def _sort_sites(graph: ModelGraph, rule: Rule) -> tuple[list[Site], list[Skipped]]:
    """The sites that `rule` edits, and those that it skips."""
    sites = list(rule.pattern.matches(graph))
    selected = rule.layers.select(sites)
    chosen, skipped = [], []
    for site in sites:
        reason = rule.check(site) if site.path in selected else f"not selected by {rule.layers}"
        if reason is None:
            chosen.append(site)
        else:
            skipped.append(Skipped(path=site.path, rule=rule.name, layer=site.operator.layer, reason=reason))
    if not chosen:
        raise MatchError(_nothing(graph, rule, skipped))
    return chosen, skipped


def _nothing(graph: ModelGraph, rule: Rule, skipped: Sequence[Skipped]) -> str:
    """Why `rule` applies nowhere, with the nearest misses."""
    head = f"{rule.name}: no {rule.pattern} to replace in {graph.root.module_class.__name__}"
    if skipped:
        nearest = max(skipped, key=lambda s: not s.reason.startswith("not selected"))
        return f"{head}; {len(skipped)} matched and were skipped, e.g. {nearest.path}: {nearest.reason}"
    there = Counter(o.role for o in graph.operators() if o.role.endswith("attention") or o.role == "mlp")
    found = ", ".join(f"{count} {role.replace('_', '-')}" for role, count in there.items())
    return f"{head}; it has {found or 'no operators that are recognised'}"


def _edit(rule: Rule, site: Site) -> Edit:
    replacement = rule.replacement(site)
    cost = check_contract(site, replacement)
    operator = site.operator
    return Edit(
        path=site.path,
        rule=rule.name,
        layer=operator.layer,
        replaced=operator.module_class,
        replacement=replacement,
        loss=rule.loss,
        params=Change(before=operator.params, after=cost.params),
        flops=Change(before=operator.flops, after=cost.flops),
        flops_mixing=Change(before=operator.flops_mixing, after=cost.flops_mixing),
    )


def _total(before: int, changes: Sequence[Change]) -> Change:
    return Change(before=before, after=before + sum(c.after - c.before for c in changes))


def _conflicts(edits: Sequence[Edit]) -> list[Conflict]:
    """Edits of the same module, or of one inside another."""
    taken: dict[str, Edit] = {}
    found = []
    for edit in edits:
        if edit.path in taken:
            found.append(_conflict(taken[edit.path], edit))
        taken.setdefault(edit.path, edit)
    for path, edit in taken.items():
        parts = path.split(".")
        above = (".".join(parts[:n]) for n in range(1, len(parts)))
        found += [_conflict(taken[a], edit) for a in above if a in taken]
    return found


def _conflict(outer: Edit, inner: Edit) -> Conflict:
    return Conflict(paths=(outer.path, inner.path), rules=(outer.rule, inner.rule))
