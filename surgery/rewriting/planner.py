"""From rules and matches to edits and skipped sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from surgery.errors import MatchError, RewriteError
from surgery.graph import ModelGraph
from surgery.rewriting import kinds as kinds  # which makes them known
from surgery.rewriting.application import Application
from surgery.rewriting.edit import Edit, Skipped
from surgery.rewriting.facts import Facts
from surgery.rewriting.match import find_sites
from surgery.rewriting.misses import why_nothing
from surgery.rewriting.rule import Rule
from surgery.rewriting.site import Site
from surgery.rewriting.trial import Trial


class Planner:
    """Collects what the rules do to a model.

    Attributes:
        edits, skipped: in execution order of their sites, rule by rule.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self._graph, self._facts, self._trial = graph, Facts(graph), Trial()
        self.edits: list[Edit] = []
        self.skipped: list[Skipped] = []

    def add(self, rule: Rule) -> None:
        """Decide on every match of `rule`.

        Raises:
            MatchError: the rule applies nowhere, or names a layer that does not exist.
            RewriteError: a replacement does not fit.
        """
        sites = find_sites(self._graph, rule.pattern)
        application = Application(rule, self._facts, self._trial, sites)
        groups: dict[str, list[Site]] = defaultdict(list)
        for site in sites:
            groups[site.path].append(site)
        try:
            selected = rule.layers.select([group[0] for group in groups.values()])
        except RewriteError as error:  # of a function of the user's own, which knows the site but not the rule
            raise RewriteError(f"{rule.name}, {error}") from error
        made, skipped = list[Edit](), list[Skipped]()
        taken: dict[object, str] = {}
        for path, group in groups.items():
            reason = _refusal(application, group, selected, taken)
            if reason is None:
                made += _edits(application, group)
                taken |= {item.key: path for site in group for item in site.items.values()}
            else:
                skipped.append(Skipped(path=path, rule=rule.name, layer=group[0].first.layer, reason=reason))
        if not made:
            raise MatchError(why_nothing(self._graph, rule, skipped))
        self.edits += made
        self.skipped += self._with_namesakes(skipped, groups)

    def _with_namesakes(self, skipped: Sequence[Skipped], groups: Mapping[str, Sequence[Site]]) -> list[Skipped]:
        """`skipped`, of which those say so that are edited all the same, as what matched there is what did elsewhere."""
        left_out = {each.path for each in skipped}
        edited = {self._what(group[0]): path for path, group in groups.items() if path not in left_out}
        found = []
        for each in skipped:
            twin = edited.get(self._what(groups[each.path][0]))
            reason = each.reason if twin is None else f"{each.reason}, but is edited as it is {twin}"
            found.append(each.model_copy(update={"reason": reason}))
        return found

    def _what(self, site: Site) -> object:
        """What tells whether two sites are the same module, or the same nodes of one; all are different from others."""
        if len(site.items) > 1:
            return site.path
        return site.module if site.first.is_module else (self._facts.module(site.scope), site.first.key[1])


def _refusal(
    application: Application, group: Sequence[Site], selected: set[str], taken: dict[object, str]
) -> str | None:
    """Why the rule is not applied to `group`, the matches of one path; None if it is."""
    if group[0].path not in selected:
        return f"not selected by {application.rule.layers}"
    reason = next(filter(None, map(application.refusal, group)), None)
    others = (taken[item.key] for item in group[0].items.values() if item.key in taken)
    if reason is None and len(group[0].items) > 1 and (other := next(others, None)):
        return f"overlaps {other}, which comes first"
    return reason


def _edits(application: Application, group: Sequence[Site]) -> Sequence[Edit]:
    given = application.replacement(group[0])
    return _kind_for(given, application.where(group[0])).plan(application, group, given)


def _kind_for(given: Any, where: str) -> type[Edit]:
    """The kind of the edits that a right-hand side asks for."""
    by_class = {kind.made_by: kind for kind in Edit.known.values()}
    kind = next((by_class[each] for each in type(given).__mro__ if each in by_class), None)
    if kind is None:
        *others, last = sorted(each.__name__ for each in by_class)
        raise RewriteError(
            f"{where}: its replacement gives a {type(given).__name__}; return a {', a '.join(others)} or a {last}"
        )
    return kind
