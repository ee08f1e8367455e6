"""Candidates: what each rule would do in each layer, and which of these exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import nn

from surgery.errors import MatchError
from surgery.graph import ModelGraph
from surgery.rewriting import Edit, Rule, Selection, indices
from surgery.rewriting.conflict import find_conflicts
from surgery.rewriting.planner import Planner
from surgery.rewriting.totals import count_weights


@dataclass(frozen=True)
class Candidate:
    """The edits of one rule in one layer, which are made together or not at all.

    Attributes:
        number: of the rule in the recipe, counted from 0.
        rule: the rule, with its own layers.
        layer: the number of the block, or of the first of several; None outside of blocks.
        edits: at least one.
    """

    number: int
    rule: Rule
    layer: int | None
    edits: tuple[Edit, ...]

    @property
    def key(self) -> str:
        """Rule and layer, as files name it."""
        return f"{self.number}-{'outside' if self.layer is None else self.layer}"

    @property
    def words(self) -> str:
        """Rule and layer, to read."""
        return f"{self.rule.name} {'outside of blocks' if self.layer is None else f'in layer {self.layer}'}"

    def change(self, model: nn.Module) -> dict[str, float]:
        """What it adds to the FLOPs, the parameters and the memory of `model`, the teacher."""
        params, memory = count_weights(model, self.edits)
        return {
            "flops": sum(edit.flops.after - edit.flops.before for edit in self.edits),
            "params": params.after - params.before,
            "memory": memory.after - memory.before,
        }


def find_candidates(graph: ModelGraph, rules: Sequence[Rule]) -> list[Candidate]:
    """What each rule would do in each of the layers that it selects, every replacement checked as in a plan.

    Raises:
        MatchError: a rule applies nowhere, or names a layer that does not exist.
        RewriteError: a replacement does not fit.
    """
    planner = Planner(graph)
    found: list[Candidate] = []
    for number, rule in enumerate(rules):
        before = len(found)
        for layer in (*layers_of(graph), None):
            known = len(planner.edits)
            try:
                planner.add(narrowed(rule, graph, [layer]))
            except MatchError:
                continue
            found.append(Candidate(number, rule, layer, tuple(planner.edits[known:])))
        if len(found) == before:
            planner.add(rule)  # which says why
    return found


def layers_of(graph: ModelGraph) -> list[int]:
    """The numbers of the model's layers."""
    return sorted(set(graph.layers.values()))


def narrowed(rule: Rule, graph: ModelGraph, layers: Sequence[int | None]) -> Rule:
    """`rule` in those of its own layers that are among `layers`; None is what stands outside of blocks."""
    return rule.model_copy(update={"layers": rule.layers & _listed(graph, layers)})


def chosen_rules(graph: ModelGraph, chosen: Sequence[Candidate]) -> list[Rule]:
    """The rules that make the edits of `chosen`, and no others, with their layers listed."""
    layers: dict[int, list[int | None]] = {}
    for candidate in chosen:
        layers.setdefault(candidate.number, []).append(candidate.layer)
    rules = {candidate.number: candidate.rule for candidate in chosen}
    return [rules[n].model_copy(update={"layers": _listed(graph, layers[n])}) for n in sorted(layers)]


def _listed(graph: ModelGraph, layers: Sequence[int | None]) -> Selection:
    inside = sorted(layer for layer in layers if layer is not None)
    if None not in layers:
        return indices(*inside)
    outside = ~indices(*layers_of(graph))
    return outside | indices(*inside) if inside else outside


def exclusions(candidates: Sequence[Candidate]) -> list[tuple[int, int]]:
    """The pairs of `candidates`, by number, that cannot be made together."""
    pairs = combinations(enumerate(candidates), 2)
    return [(a, b) for (a, one), (b, other) in pairs if _exclude(one.edits, other.edits)]


def _exclude(one: Sequence[Edit], other: Sequence[Edit]) -> bool:
    names = [{path for edit in edits for path in edit.added.values()} for edits in (one, other)]
    return bool(names[0] & names[1]) or bool(find_conflicts([*one, *other]))
