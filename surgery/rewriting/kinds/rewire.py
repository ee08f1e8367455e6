"""Rewire: the graph of a scope is edited, by new calls and by what they stand for."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, Self

from pydantic import Field
from torch import fx, nn

from surgery.errors import RewriteError
from surgery.recording.paths import below, child_path, is_inside, relative
from surgery.rewriting.application import Application
from surgery.rewriting.edit import Change, Claims, Edit, Weights
from surgery.rewriting.graphs.anchors import Anchor, Place, turns
from surgery.rewriting.graphs.edited_module import made_names
from surgery.rewriting.graphs.given import given_to, taken_place_of
from surgery.rewriting.graphs.removed import Removed
from surgery.rewriting.graphs.rewired import Bound
from surgery.rewriting.graphs.trial import try_rewiring
from surgery.rewriting.graphs.wellformed import require_well_formed
from surgery.rewriting.kinds.everywhere import alike
from surgery.rewriting.kinds.rewire_lesson import CallsLesson
from surgery.rewriting.lesson import Lesson, ModuleLesson
from surgery.rewriting.make import Maker, like
from surgery.rewriting.replacement import Copy, New, Rewiring
from surgery.rewriting.site import Site
from surgery.rewriting.trial import Cost
from surgery.rewriting.values import parse
from surgery.rewriting.words import name_is_taken


class Rewire(Edit):
    """New calls take the place of matched ones.

    Attributes:
        place: the nodes that matched.
        modules: the paths of the new modules, by the names that the rewiring gives them.
        removed: the paths of the modules that are taken out, as nothing calls them any more.
        elsewhere: the other paths of the module whose graph changes, if it stands in several places.
    """

    made_by = Rewiring

    kind: Literal["rewire"] = "rewire"
    replacement: Rewiring
    place: Place
    modules: dict[str, str] = Field(default={})
    removed: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    @classmethod
    def plan(cls, application: Application, group: Sequence[Site], given: Rewiring) -> list[Self]:  # noqa: ARG003
        """One for each call; several calls of a module may have their edit in one place inside it.

        One in all, if the module whose graph changes stands in several places.
        """
        rule = application.rule
        places = {
            frozenset(i.key for i in rule.place(each).items.values()): each for each in reversed(_disjoint(group))
        }
        everywhere = [alike(application, each) for each in reversed(places.values())]
        return [cls._at(application, each, number) for number, each in enumerate(everywhere) if each]

    @classmethod
    def _at(cls, application: Application, everywhere: Sequence[Site], number: int) -> Self:
        """The edit of what matched, in each of its places, the call of that `number` of the same modules."""
        matched = everywhere[0]
        rule, sites = application.rule, [application.rule.place(each) for each in everywhere]
        site, rewiring = sites[0], _rewiring(application, everywhere)
        new = [_tried(application, each, rewiring) for each in sites]
        removed = _removed(application, site, rewiring)
        costs = [_costs(application, each, rewiring, cost) for each, cost in zip(sites, new, strict=True)]
        flops, mixing = (Change.total(each) for each in zip(*costs, strict=True))
        return cls(
            path=matched.path,
            rule=rule.name,
            layer=site.first.layer,
            replaced=", ".join(dict.fromkeys(i.part.module_class or i.node.name for i in site.items.values())),
            replacement=rewiring,
            place=_place(application, site, rewiring),
            modules={name: _path(application, site, rewiring, name, number) for name in rewiring.modules},
            removed=tuple(path for path, _ in removed),
            elsewhere=tuple(each.scope for each in sites[1:]),
            loss=rule.loss,
            params=Change(before=sum(count for _, count in removed), after=new[0].params),
            flops=flops,
            flops_mixing=mixing,
        )

    @property
    def made(self) -> tuple[New, ...]:
        """The new modules that are no copies."""
        return tuple(new for new in self.replacement.modules.values() if isinstance(new, New))

    @property
    def new(self) -> tuple[str, ...]:
        """The new modules that are no copies."""
        return tuple(self.modules[n] for n, new in self.replacement.modules.items() if isinstance(new, New))

    @property
    def added(self) -> dict[str, str]:
        """The new modules that go where none was before."""
        return {name: path for name, path in self.modules.items() if name in self.replacement.fresh}

    @property
    def rewired(self) -> Bound:
        """The rewiring at its place."""
        names = {name: relative(path, self.place.scope) for name, path in self.modules.items()}
        return Bound(self.replacement, self.place, names, self.removed)

    @property
    def _matched_modules(self) -> tuple[str, ...]:
        """The paths of the modules whose calls matched."""
        return tuple(self._called(anchor) for anchor in self._anchors() if anchor.op == "call_module")

    def _anchors(self) -> Iterator[Anchor]:
        for group in self.place.nodes.values():
            yield from group

    def _called(self, anchor: Anchor) -> str:
        return below(self.place.scope, anchor.target)

    @property
    def claims(self) -> Claims:
        """The matched nodes, but for those that stay and whose results others go on to read."""
        rewiring, nodes, scopes = self.replacement, self.place.nodes, (self.place.scope, *self.elsewhere)
        looked_at = set(rewiring.keeps) - {parse(value)[0] for value in rewiring.results}
        again = {call.module for call in rewiring.calls} | rewiring.read | set(rewiring.keeps)
        ended = (a for name, group in nodes.items() if name not in again for a in group if a.op == "call_module")
        copied = (new.of for new in rewiring.modules.values() if isinstance(new, Copy))
        return Claims(
            modules=self.removed,
            nodes=tuple(
                (scope, anchor)
                for scope in scopes
                for name, group in nodes.items()
                for anchor in group
                if name not in looked_at
            ),
            scopes=scopes,
            calls=self._matched_modules,
            ended=tuple(map(self._called, ended)),
            copied=tuple(self._called(nodes[name][0]) for name in copied),
            changed=(*self.removed, *scopes),
        )

    def weights(self, model: nn.Module) -> Weights:  # noqa: ARG002
        """Those of what is taken out go; those of new modules and of copies come."""
        return Weights(gone=self.removed, copied=self.claims.copied, new=self.params.after)

    def make(self, maker: Maker) -> dict[str, nn.Module]:
        """The new modules, and what stands for those that are taken out."""
        made = {path: self._made(maker, name, path) for name, path in self.modules.items()}
        return made | {path: Removed(path, maker.at(path)) for path in self.removed}

    def _made(self, maker: Maker, name: str, path: str) -> nn.Module:
        """The new module called `name`, which goes to `path`."""
        new = self.replacement.modules[name]
        if isinstance(new, Copy):
            return copy.deepcopy(self._source(maker, name, new.of))
        sources = [self._source(maker, name, of) for of in new.sources]
        near = like(sources[0]) if sources else maker.like_in(self.place.scope)
        return maker.initialised(self.path, path, new, sources, near)

    def _source(self, maker: Maker, name: str, of: str) -> nn.Module:
        """The module that the matched node `of` calls."""
        anchor = self.place.nodes[of][0]
        if anchor.op != "call_module":
            raise RewriteError(f"{self.path}: {name} is initialised from {of}, which is no module")
        return maker.at(self._called(anchor))

    def lessons(self, teacher: nn.Module, student: nn.Module) -> list[Lesson]:
        """That the new calls give what the old ones gave; seen from outside of the unit, if some call no module."""
        if not self.new:
            return []
        if any(anchor.op != "call_module" for anchor in self._anchors()):
            return [ModuleLesson(teacher, student, self.unit)]
        paths = {name: self._called(group[0]) for name, group in self.place.nodes.items()}
        return [CallsLesson(teacher, student, self.path, self.replacement, paths, self.modules)]


def _rewiring(application: Application, everywhere: Sequence[Site]) -> Rewiring:
    """What the rule gives for one match, in each of its places.

    Raises:
        RewriteError: it gives something else in one of them.
    """
    matched, name = everywhere[0], application.rule.name
    rewiring, *others = (application.replacement(each) for each in everywhere)
    if type(rewiring) is not Rewiring:
        raise RewriteError(
            f"{matched.path}: {name} rewires one of its calls and replaces it at another; do one of both"
        )
    if (odd := next((n for n, other in enumerate(others, 1) if other != rewiring), None)) is not None:
        raise RewriteError(f"{matched.path}: is also {everywhere[odd].path}, for which {name} has another replacement")
    return rewiring


def _tried(application: Application, site: Site, rewiring: Rewiring) -> Cost:
    require_well_formed(rewiring, site, application.where(site))
    return try_rewiring(application.trial, site, rewiring)


def _costs(application: Application, site: Site, rewiring: Rewiring, new: Cost) -> tuple[Change, Change]:
    """Floating point operations, all and those of mixing: of what matched, and of what stays and what is new."""
    old = [item.part for item in site.items.values()]
    stay = [i.part for name, i in site.items.items() if name in rewiring.read or name in rewiring.keeps]
    runs = application.facts.runs[site.scope] * (len(turns(site.node)) if rewiring.repeated else 1)
    flops = Change(before=sum(p.flops for p in old), after=sum(p.flops for p in stay) + new.flops)
    mixing = Change(before=sum(p.flops_mixing for p in old), after=sum(p.flops_mixing for p in stay) + new.flops_mixing)
    return flops.times(runs), mixing.times(runs)


def _place(application: Application, site: Site, rewiring: Rewiring) -> Place:
    anchors = application.facts.anchors(site.scope)
    nodes = {name: tuple(map(anchors.of, item.nodes)) for name, item in site.items.items()}
    graphs = application.rule.pattern.graphs()
    edges = next((graph.edges for graph in graphs if set(graph.nodes) == set(site.items)), ())
    given = given_to(site.graph.scopes, site.scope, {name: item.nodes for name, item in site.items.items()})
    replaced = {name: given[name] for name in taken_place_of(rewiring, given)}
    return Place(scope=site.scope, nodes=nodes, edges=edges, repeated=rewiring.repeated, given=replaced)


def _path(application: Application, site: Site, rewiring: Rewiring, name: str, number: int) -> str:
    """The path of the new module called `name`."""
    new = rewiring.modules[name]
    if not isinstance(new, New) or new.at is None:
        return _fresh(application, site, name, number)
    path = below(site.scope, new.at)
    try:
        if isinstance(application.facts.module(path), Removed):
            return path
    except AttributeError:  # no such place
        pass
    raise RewriteError(f"{application.where(site)}: {name} is to go to {path}, where no module was taken out")


def _fresh(application: Application, site: Site, name: str, number: int) -> str:
    """The path of a new module, called after the first that matched, and of several calls and commits numbered."""
    first = site.first
    stem = str(first.node.target).replace(".", "_") if first.is_module else first.node.name
    module = application.facts.module(site.scope)
    made = made_names(module)
    while (own := f"{stem}_{name}_{number + 1}" if number else f"{stem}_{name}") in made:
        number += 1
    path = below(site.scope, own)
    if hasattr(module, own):
        raise RewriteError(name_is_taken(application.where(site), path, name))
    return path


def _removed(application: Application, site: Site, rewiring: Rewiring) -> list[tuple[str, int]]:
    """Paths and parameters of the modules that nothing calls any more."""
    facts = application.facts
    again = {call.module for call in rewiring.calls} | rewiring.read | set(rewiring.keeps)
    gone = [(item.scope, node) for name, item in site.items.items() if name not in again for node in item.nodes]
    paths = Counter(_called_modules(gone))
    application.ended.update(paths)
    alone = [
        path
        for path in paths
        if application.ended[path] == facts.calls[path] and len(facts.places(facts.module(path))) == 1
    ]
    unused = [path for each in alone for path in _unused(application, each, _used_from_outside(application, each))]
    return [(path, sum(p.numel() for p in facts.module(path).parameters())) for path in unused]


def _called_modules(nodes: Sequence[tuple[str, fx.Node]]) -> Iterator[str]:
    return (child_path(scope, node) for scope, node in nodes if node.op == "call_module")


def _used_from_outside(application: Application, path: str) -> set[str]:
    """Paths of modules and parameters inside the module at `path` that others use, as DiT does its first block's."""
    uses = application.facts.uses_inside[path]
    return {used for scope, used in uses if not is_inside(scope, path)} - {path}


def _unused(application: Application, path: str, used: set[str]) -> Iterator[str]:
    """The module at `path`, or of one of which something is used the parts that are not."""
    if not any(is_inside(each, path) for each in used):
        yield path
    elif path not in used:
        for name, _ in application.facts.module(path).named_children():
            yield from _unused(application, below(path, name), used)


def _disjoint(sites: Sequence[Site]) -> list[Site]:
    """Those of `sites` that have no node of one before them."""
    chosen: list[Site] = []
    seen: set[object] = set()
    for site in sites:
        keys = {item.key for item in site.items.values()}
        if not keys & seen:
            chosen.append(site)
            seen |= keys
    return chosen
