"""Resize: several modules give way to others at once, so that what flows between them may have other sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

from torch import nn
from torch.utils import _pytree as pytree

from surgery.errors import RewriteError
from surgery.recording.binding import unbind
from surgery.recording.cost import FlopCounter
from surgery.recording.parameters import first_floating
from surgery.recording.paths import is_inside, put, relative
from surgery.recording.skeleton import skeleton
from surgery.recording.state import own_class
from surgery.rewriting.application import Application
from surgery.rewriting.edit import Change, Claims, Edit, Weights
from surgery.rewriting.graphs.anchors import Place
from surgery.rewriting.graphs.edited_module import aliases_of, edit_scope, edited_recordings_of
from surgery.rewriting.graphs.given import given_to
from surgery.rewriting.graphs.rewired import Bound
from surgery.rewriting.lesson import Lesson, ModuleLesson
from surgery.rewriting.make import Maker, like
from surgery.rewriting.other_sizes import ToSize, at_each_size
from surgery.rewriting.replacement import New, Resizing, Rewiring
from surgery.rewriting.site import Item, Site
from surgery.rewriting.trial import (
    Cost,
    Trial,
    built,
    called,
    require_alike,
    shape_and_dtype,
    situation,
)
from surgery.tracing.tracer import record


class Resize(Edit):
    """Modules are replaced in their places by others of other sizes.

    Attributes:
        modules: the paths of those that are replaced or inherited from, by the names that the pattern gives them.
        paths: every path of those that are replaced, which may stand in several places.
        place: the nodes whose numbers change with them; None if there are none.
    """

    made_by = Resizing

    kind: Literal["resize"] = "resize"
    replacement: Resizing
    modules: dict[str, str]
    paths: tuple[str, ...]
    place: Place | None = None

    @classmethod
    def plan(cls, application: Application, group: Sequence[Site], given: Resizing) -> list[Self]:
        """One for the modules at `group`, the calls of the same ones, wherever they stand."""
        matched, facts = group[0], application.facts
        items = _items(application, matched, given)
        places = {name: facts.places(item.module) for name, item in items.items()}
        if not application.is_first(application.rule.place(matched).first.module):
            return []
        if application.rule.shared == "apart" and any(len(each) > 1 for each in places.values()):
            raise RewriteError(
                f'{application.where(matched)}: modules that are resized cannot be taken apart; use shared="together"'
            )
        paths = {name: item.path for name, item in items.items()}
        replaced = tuple(path for name in given.modules for path in places[name])
        _require_together(
            application.where(matched), matched.unit, {name: (paths[name], places[name]) for name in items}
        )
        if matched.first.is_module:
            group = application.calls(matched.module)
        place = _place(application, matched, given, replaced)
        old, new = _tried(application.trial, matched, paths, given, _bound(given, place, replaced))
        flops = _flops(application, group, old, new)
        operator = matched.operator
        return [
            cls(
                path=matched.path,
                rule=application.rule.name,
                layer=operator.layer,
                replaced=operator.module_class or ", ".join(dict.fromkeys(i.part.module_class for i in items.values())),
                replacement=given,
                modules=paths,
                paths=replaced,
                place=place,
                loss=application.rule.loss,
                params=Change(before=operator.params, after=operator.params + new.params - old.params),
                flops=flops,
                flops_mixing=flops,
            )
        ]

    @property
    def made(self) -> tuple[New, ...]:
        """The new modules."""
        return tuple(self.replacement.modules.values())

    @property
    def new(self) -> tuple[str, ...]:
        """The first path of each new module."""
        return tuple(self.modules[name] for name in self.replacement.modules)

    @property
    def rewired(self) -> Bound | None:
        """The numbers that change."""
        return _bound(self.replacement, self.place, self.paths)

    @property
    def claims(self) -> Claims:
        """The modules, and nodes; and the module around them, if that is what matched, which was run as a whole."""
        whole = (self.path,) if self.path == self.unit else ()
        places = () if self.place is None else (self.place,)
        scopes = tuple(place.scope for place in places)
        nodes = tuple((place.scope, anchor) for place in places for group in place.nodes.values() for anchor in group)
        changed = (*self.paths, *scopes)
        return Claims(modules=self.paths, nodes=nodes, scopes=scopes, resized=self.paths, whole=whole, changed=changed)

    def weights(self, model: nn.Module) -> Weights:
        """Those of the old modules go, those of the new ones come."""
        old = {id(p): p.numel() for path in self.paths for p in model.get_submodule(path).parameters()}
        return Weights(gone=self.paths, copied=(), new=self.params.after - self.params.before + sum(old.values()))

    def make(self, maker: Maker) -> dict[str, nn.Module]:
        """A new module in every place of each old one."""
        old = {name: maker.at(path) for name, path in self.modules.items()}
        places = {path: maker.at(path) for path in self.paths}
        made: dict[str, nn.Module] = {}
        for name, new in self.replacement.modules.items():
            sources = [old[source] for source in new.sources]
            module = maker.initialised(self.path, self.modules[name], new, sources, like(old[name]))
            made |= {path: module for path, each in places.items() if each is old[name]}
        return made

    def lessons(self, teacher: nn.Module, student: nn.Module) -> list[Lesson]:
        """That the module around them gives what it gave."""
        return [ModuleLesson(teacher, student, self.unit, self.paths)]


def _items(application: Application, matched: Site, resizing: Resizing) -> dict[str, Item]:
    """The modules that are replaced or inherited from, by name.

    Raises:
        RewriteError: something that `resizing` names is no module, or is what matched as a whole.
    """
    where, site = application.where(matched), application.rule.place(matched)
    sources = {source: None for new in resizing.modules.values() for source in new.sources}
    for name in {**resizing.modules, **sources}:
        if name not in site.items:
            raise RewriteError(f"{where}: no node is called {name!r}; the pattern names {', '.join(site.items)}")
        if not site[name].is_module:
            raise RewriteError(f"{where}: {name} is no module, so it has no place for another; name modules only")
    if matched.unit in [item.path for item in site.items.values()]:
        raise RewriteError(f"{where}: resizes what matched itself; return a Replacement, or match the modules in it")
    return {name: site[name] for name in {**resizing.modules, **sources}}


def _require_together(where: str, unit: str, places: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Raise RewriteError if some of the modules stand in other places as well, and those around them there do not."""
    roots: dict[str, set[str]] = {}
    for name, (path, each) in places.items():
        tail = path.removeprefix(unit)
        roots[name] = {other.removesuffix(tail) if other.endswith(tail) else other for other in each}
    widest, fewest = (choose(roots.values(), key=len) for choose in (max, min))
    if widest != fewest or len({frozenset(each) for each in roots.values()}) > 1:
        other = next(iter(sorted(set().union(*roots.values()) - fewest)))
        raise RewriteError(f"{where}: only some of its layers are those of {other} too; share all of them, or none")


def _place(application: Application, group: Site, given: Resizing, replaced: Sequence[str]) -> Place | None:
    """The nodes whose numbers change.

    Raises:
        RewriteError: their graph does not hold every call of what is replaced, so it cannot be recorded as it was before.
    """
    if not given.numbers:
        return None
    where, site, facts = application.where(group), application.rule.place(group), application.facts
    scope = next(site[name].scope for name in given.numbers)
    for path in replaced:
        if not is_inside(path, scope):
            raise RewriteError(
                f"{where}: {path} is outside of {scope}, where its features are counted by fixed numbers"
            )
        if len(replaced) > len(given.modules) or facts.calls[path] > 1:
            raise RewriteError(f"{where}: {path} is used in several places, and its features counted by fixed numbers")
    anchors = facts.anchors(scope)
    matched = {name: site[name].nodes for name in given.numbers}
    nodes = {name: tuple(map(anchors.of, each)) for name, each in matched.items()}
    return Place(scope=scope, nodes=nodes, given=given_to(site.graph.scopes, scope, matched))


def _bound(given: Resizing, place: Place | None, replaced: tuple[str, ...]) -> Bound | None:
    """How the graph changes in which numbers do."""
    if place is None:
        return None
    removed = tuple(path for path in replaced if is_inside(path, place.scope))
    return Bound(Rewiring(results={}, keeps=tuple(place.nodes)), place, {}, removed, given.numbers)


def _flops(application: Application, group: Sequence[Site], old: Cost, new: Cost) -> Change:
    """Linear maps cost the same for each token, however many there are in a call."""
    operator = group[0].operator
    changes = []
    for site in group:
        before = site.node.meta["flops"] if site.first.is_module else operator.flops
        grown = new.flops - old.flops  # all of it, where the linear maps stand outside of what matched
        after = before + (before * grown // operator.flops if operator.flops else grown)
        changes.append(Change(before=before, after=after).times(application.facts.runs[site.scope]))
    return Change.total(changes)


def _tried(
    trial: Trial, site: Site, paths: Mapping[str, str], resizing: Resizing, bound: Bound | None
) -> tuple[Cost, Cost]:
    """What the module around costs before and after; it is run with the new modules at several sizes.

    Raises:
        RewriteError: it fails, or its result has another shape or dtype than before.
    """
    unit = site.unit
    below = {name: relative(path, unit) for name, path in paths.items()}
    recording = site.graph.scopes[unit].recordings[0]
    around = tuple(map(str, map(shape_and_dtype, recording.in_leaves)))
    key = ("resizing", resizing.model_dump_json(), situation(site), tuple(below.items()), around)
    costs: tuple[Cost, Cost] = trial.once(key, lambda: _before_and_after(site, below, resizing, bound))
    return costs


def _before_and_after(
    site: Site, below: Mapping[str, str], resizing: Resizing, bound: Bound | None
) -> tuple[Cost, Cost]:
    module = site.graph.model.get_submodule(site.unit)
    old, new = skeleton(module), _with_new_modules(site, module, below, resizing)
    if bound is not None:
        _change_numbers(site, new, bound)
    recording = site.graph.scopes[site.unit].recordings[0]
    arguments = pytree.tree_unflatten(recording.in_leaves, recording.in_spec)
    kinds = ", ".join(dict.fromkeys(made.operator.kind for made in resizing.modules.values()))

    def run(resize: ToSize) -> tuple[Cost, Cost] | None:
        args, kwargs = unbind(own_class(module), resize(arguments), len(arguments))
        try:
            before = _counted(site.path, type(module).__name__, old, args, kwargs)
        except RewriteError:
            if resize(arguments) is arguments:
                raise
            return None  # other arguments, such as rotary embeddings, are still those of the traced size
        after = _counted(site.path, kinds, new, args, kwargs)
        require_alike(site.path, after.result, before.result, kinds)
        return before.cost, after.cost

    traced, *_ = at_each_size(site.operator.in_shape, run)
    assert traced is not None
    return traced


def _with_new_modules(site: Site, module: nn.Module, below: Mapping[str, str], resizing: Resizing) -> nn.Module:
    """`module` on the meta device with the new modules, whose paths in it are those `below`."""
    twin = skeleton(module)
    for name, made in resizing.modules.items():
        put(twin, below[name], built(site.path, made, first_floating(module.get_submodule(below[name]))))
    return twin


def _change_numbers(site: Site, twin: nn.Module, bound: Bound) -> None:
    """Let the part of `twin`, a copy of the module around, in which numbers change run its edited graph."""
    scope, graph = bound.place.scope, site.graph
    if not is_inside(scope, site.unit):
        raise RewriteError(f"{site.path}: its features are counted by fixed numbers outside of {site.unit}, in {scope}")
    module = graph.model.get_submodule(scope)
    originals = {relative(path, scope): module.get_submodule(relative(path, scope)) for path in bound.removed}
    edited = twin.get_submodule(relative(scope, site.unit))
    recordings = edited_recordings_of(graph, scope, [bound])
    edit_scope(edited, graph.scopes[scope], recordings, [bound], originals, record, aliases_of(module))


class _Counted(NamedTuple):
    result: Any
    cost: Cost


def _counted(path: str, what: str, module: nn.Module, args: Any, kwargs: Any) -> _Counted:
    """A module's result on the meta device, and what it costs."""
    with FlopCounter() as counter:
        result = called(path, what, module, args, kwargs)
    return _Counted(result, Cost(sum(p.numel() for p in module.parameters()), counter.total, 0))
