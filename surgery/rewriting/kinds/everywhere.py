"""Matches in a module that stands in several places, such as an attention of two blocks: an edit in it is one for all."""

from __future__ import annotations

from surgery.errors import RewriteError
from surgery.recording.paths import is_inside
from surgery.rewriting.application import Application
from surgery.rewriting.site import Site


def alike(application: Application, matched: Site) -> list[Site]:
    """`matched` in each place of the module whose graph it changes; none, if that edit was planned already.

    Raises:
        RewriteError: the rule does not fit in one of the places, or wants them apart.
    """
    rule, facts = application.rule, application.facts
    site = rule.place(matched)
    homes = facts.homes(site.scope)
    if len(homes) == 1:
        return [matched]
    if rule.shared == "apart":
        raise RewriteError(
            f"{matched.path}: stands in {homes[0]} and {homes[1]}, which are one module that cannot be taken apart; "
            'use shared="together"'
        )
    nodes = _nodes(application, site)
    if not application.is_first((homes[0], nodes)):
        return []
    found, reasons = dict[str, Site](), dict[str, str]()
    for other in application.sites:
        home = next((home for home in homes if is_inside(home, other.unit)), None)
        if home is None:
            continue
        if reason := application.refusal(other):
            reasons[home] = reason
        elif _nodes(application, placed := rule.place(other)) == nodes and placed.scope in homes:
            found.setdefault(placed.scope, other)
    if (odd := next((home for home in homes if home not in found), None)) is not None:
        reason = reasons.get(odd, "it finds nothing there")
        raise RewriteError(f"{matched.path}: is also in {odd}, where {rule.name} does not fit: {reason}")
    return [found[home] for home in homes]


def _nodes(application: Application, site: Site) -> frozenset[object]:
    """The matched nodes, told by their anchors, as another place may have a recording of its own."""
    return frozenset(
        (name, application.facts.anchors(item.scope).of(node))
        for name, item in site.items.items()
        for node in item.nodes
    )
