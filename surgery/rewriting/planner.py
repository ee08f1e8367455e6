"""From rules and matches to edits and skipped sites."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from torch import nn

from surgery.analysis.roles.flow import is_inside
from surgery.config import Config
from surgery.errors import MatchError, RewriteError
from surgery.graph import ModelGraph
from surgery.recording.paths import child_path, opened, outers
from surgery.rewriting.contract import Contract, Cost
from surgery.rewriting.edit import Change, Edit, below
from surgery.rewriting.edited_module import made_names
from surgery.rewriting.kinds.anchors import Anchors, Place
from surgery.rewriting.match import find_sites
from surgery.rewriting.misses import why_nothing
from surgery.rewriting.replacement import Replacement, Resizing, Rewiring, Sharing
from surgery.rewriting.rule import Rule
from surgery.rewriting.site import Site
from surgery.rewriting.wellformed import check_of, replacement_of, require_modules, require_well_formed


class Skipped(Config):
    """A site that a rule's pattern matched and that it leaves alone."""

    path: str
    rule: str
    layer: int | None
    reason: str


class Planner:
    """Collects what the rules do to a model.

    Attributes:
        edits, skipped: in execution order of their sites, rule by rule.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        self._contract = Contract()
        self._anchors: dict[int, Anchors] = {}
        self._calls_of: dict[int, list[Site]] = {}
        self._swapped: set[int] = set()
        self._gone: Counter[str] = Counter()
        self.edits: list[Edit] = []
        self.skipped: list[Skipped] = []

    def add(self, rule: Rule) -> None:
        """Decide on every match of `rule`.

        Raises:
            MatchError: the rule applies nowhere, or names a layer that does not exist.
            RewriteError: a replacement does not fit.
        """
        groups: dict[str, list[Site]] = defaultdict(list)
        self._calls_of, self._swapped, self._gone = defaultdict(list), set(), Counter()
        for site in find_sites(self._graph, rule.pattern):
            groups[site.path].append(site)
            if len(site.items) == 1 and site.first.is_module:
                self._calls_of[id(site.module)].append(site)
        try:
            selected = rule.layers.select([group[0] for group in groups.values()])
        except RewriteError as error:  # of a function of the user's own, which knows the site but not the rule
            raise RewriteError(f"{rule.name}, {error}") from error
        made, skipped = [], []
        taken: dict[object, str] = {}
        for path, group in groups.items():
            reason = self._refusal(rule, group, selected, taken)
            if reason is None:
                made += self._edits(rule, group)
                taken |= {item.key: path for site in group for item in site.items.values()}
            else:
                skipped.append(Skipped(path=path, rule=rule.name, layer=group[0].first.layer, reason=reason))
        if not made:
            raise MatchError(why_nothing(self._graph, rule, skipped))
        self.edits += made
        self.skipped += skipped

    def _refusal(self, rule: Rule, group: list[Site], selected: set[str], taken: dict[object, str]) -> str | None:
        if group[0].path not in selected:
            return f"not selected by {rule.layers}"
        reason = next(filter(None, (check_of(rule, site) for site in group)), None)
        others = (taken[item.key] for item in group[0].items.values() if item.key in taken)
        if reason is None and len(group[0].items) > 1 and (other := next(others, None)):
            return f"overlaps {other}, which comes first"
        return reason

    def _edits(self, rule: Rule, group: list[Site]) -> list[Edit]:
        site = group[0]
        replacement = replacement_of(rule, site)
        if isinstance(replacement, Replacement):
            return self._swaps(rule, site, replacement)
        if isinstance(replacement, Sharing):
            return [self._sharing(rule, site, replacement)]
        if isinstance(replacement, Resizing):
            return self._resized(rule, group, replacement)
        # Several calls of a module may have their edit in one place inside it.
        places = {
            frozenset(i.key for i in rule.place(each).items.values()): each for each in reversed(_disjoint(group))
        }
        return [self._rewired(rule, each, number) for number, each in enumerate(reversed(places.values()))]

    # -- modules ---------------------------------------------------------------------------------------------------

    def _swaps(self, rule: Rule, site: Site, replacement: Replacement) -> list[Edit]:
        """The swap of the module at `site` wherever it is called; in each of its places, if it is to be apart."""
        if not site.first.is_module:
            raise RewriteError(
                f"{site.path}: {rule.name} replaces a module, and this is none; "
                "let its check refuse such sites, or give a Rewiring"
            )
        if id(site.module) in self._swapped:
            return []
        self._swapped.add(id(site.module))
        group = self._calls_of[id(site.module)]
        for other in group:
            if reason := check_of(rule, other):
                raise RewriteError(f"{site.path}: is also {other.path}, where {rule.name} does not fit: {reason}")
        calls = [(each, self._contract.check(each, replacement)) for each in group]
        places = self._places[id(site.module)]
        apart = rule.shared == "apart" and len(places) > 1
        if rule.shared == "apart" and len(group) > len(places):
            raise RewriteError(
                f"{site.path}: is called {len(group)} times but stands in {len(places)} place(s), so it cannot be taken "
                'apart; use shared="together"'
            )
        if apart:
            return [self._swap(rule, replacement, (path,), calls[:1], n) for n, path in enumerate(places)]
        return [self._swap(rule, replacement, tuple(places), calls, 0)]

    def _swap(
        self,
        rule: Rule,
        replacement: Replacement,
        paths: tuple[str, ...],
        calls: Sequence[tuple[Site, Cost]],
        number: int,
    ) -> Edit:
        site, new = calls[0]
        old = site.operator
        return Edit(
            path=paths[0] if number else site.path,
            rule=rule.name,
            layer=old.layer,
            replaced=old.module_class,
            replacement=replacement,
            paths=paths,
            loss=rule.loss,
            params=Change(before=0 if number else old.params, after=new.params),
            flops=_sum(_times(self._runs[each.scope], each.node.meta["flops"], cost.flops) for each, cost in calls),
            flops_mixing=_sum(
                _times(self._runs[each.scope], old.flops_mixing, cost.flops_mixing) for each, cost in calls
            ),
        )

    @cached_property
    def _places(self) -> dict[int, list[str]]:
        """Every path of each module, those within one parent that has several paths itself counting once."""
        model = self._graph.model
        found: dict[int, list[str]] = defaultdict(list)
        holders: set[tuple[int, str]] = set()
        modules = dict(model.named_modules(remove_duplicate=False))
        for path, module in modules.items():
            parent, _, name = path.rpartition(".")
            if path and (id(modules[parent]), name) not in holders:
                holders.add((id(modules[parent]), name))
                found[id(module)].append(path)
        return found

    def _resized(self, rule: Rule, group: list[Site], resizing: Resizing) -> list[Edit]:
        """The edit that replaces several modules at `group`, the calls of the same ones, wherever they stand."""
        matched, where = group[0], f"{rule.name} at {group[0].path}"
        site = rule.place(matched)
        require_modules(resizing, site, where)
        if matched.unit in [item.path for item in site.items.values()]:
            raise RewriteError(
                f"{where}: resizes what matched itself; return a Replacement, or match the modules in it"
            )
        modules = {name: site[name] for name in {**resizing.modules, **_sources(resizing)}}
        places = {name: self._places[id(item.module)] for name, item in modules.items()}
        if id(first := site.first.module) in self._swapped:
            return []
        self._swapped.add(id(first))
        if rule.shared == "apart" and any(len(each) > 1 for each in places.values()):
            raise RewriteError(f'{where}: modules that are resized cannot be taken apart; use shared="together"')
        old, new = self._contract.check_resizing(matched, {name: item.path for name, item in modules.items()}, resizing)
        operator = matched.operator
        each_call = [
            (self._runs[s.scope], s.node.meta["flops"] if s.first.is_module else operator.flops) for s in group
        ]
        # Linear maps cost the same for each token, however many there are in a call.
        flops = _sum(_times(n, cost, cost + cost * (new.flops - old.flops) // operator.flops) for n, cost in each_call)
        return [
            Edit(
                path=matched.path,
                rule=rule.name,
                layer=operator.layer,
                replaced=operator.module_class
                or ", ".join(dict.fromkeys(i.part.module_class for i in modules.values())),
                replacement=resizing,
                paths=tuple(path for name in resizing.modules for path in places[name]),
                modules={name: item.path for name, item in modules.items()},
                loss=rule.loss,
                params=Change(before=operator.params, after=operator.params + new.params - old.params),
                flops=flops,
                flops_mixing=flops,
            )
        ]

    def _sharing(self, rule: Rule, site: Site, replacement: Sharing) -> Edit:
        modules = [item for item in site.items.values() if item.is_module]
        paths = tuple(dict.fromkeys(path for item in modules for path in self._places[id(item.module)]))
        shapes = [{n: tuple(p.shape) for n, p in item.module.state_dict().items()} for item in modules]
        odd = next((item.path for item, shape in zip(modules, shapes, strict=True) if shape != shapes[0]), None)
        if odd is not None or len({id(item.module) for item in modules}) < 2:
            raise RewriteError(f"{site.path}: {odd or 'one module alone'} cannot share the weights of the first")
        counts = {id(p): p.numel() for item in modules for p in item.module.parameters()}  # once, if shared already
        flops = self._runs[site.scope] * sum(item.part.flops for item in modules)
        mixing = self._runs[site.scope] * sum(item.part.flops_mixing for item in modules)
        return Edit(
            path=site.path, rule=rule.name, layer=site.first.layer, replaced=site.operator.module_class,
            replacement=replacement, paths=paths, loss=rule.loss,
            params=Change(before=sum(counts.values()), after=site.operator.params),
            flops=Change(before=flops, after=flops), flops_mixing=Change(before=mixing, after=mixing),
        )  # fmt: skip

    # -- graphs ----------------------------------------------------------------------------------------------------

    def _rewired(self, rule: Rule, matched: Site, number: int) -> Edit:
        """The edit by a rewiring of what `matched`, the call of that `number` of the same modules."""
        path, site, rewiring = matched.path, rule.place(matched), replacement_of(rule, matched)
        if not isinstance(rewiring, Rewiring):
            raise RewriteError(
                f"{path}: {rule.name} rewires one of its calls and replaces it at another; do one of both"
            )
        require_well_formed(rewiring, site, f"{rule.name} at {path}")
        new = self._contract.check_rewiring(site, rewiring)
        removed = self._removed(site, rewiring)
        stays = [item for name, item in site.items.items() if name in rewiring.read or name in rewiring.keeps]
        old = list(site.items.values())
        runs = self._runs[site.scope]
        return Edit(
            path=path,
            rule=rule.name,
            layer=site.first.layer,
            replaced=", ".join(dict.fromkeys(item.part.module_class or item.node.name for item in old)),
            replacement=rewiring,
            paths=tuple(path for path, _ in removed),
            place=self._place(rule, site),
            modules={name: self._fresh(rule, site, name, number) for name in rewiring.modules},
            loss=rule.loss,
            params=Change(before=sum(count for _, count in removed), after=new.params),
            flops=_times(runs, sum(i.part.flops for i in old), sum(i.part.flops for i in stays) + new.flops),
            flops_mixing=_times(
                runs,
                sum(i.part.flops_mixing for i in old),
                sum(i.part.flops_mixing for i in stays) + new.flops_mixing,
            ),
        )

    def _place(self, rule: Rule, site: Site) -> Place:
        scope = self._graph.scopes[site.scope]
        if id(scope.graph) not in self._anchors:
            self._anchors[id(scope.graph)] = Anchors(scope.graph)
        anchors = self._anchors[id(scope.graph)]
        nodes = {name: tuple(map(anchors.of, item.nodes)) for name, item in site.items.items()}
        edges = next((g.edges for g in rule.pattern.graphs() if set(g.nodes) == set(site.items)), ())
        return Place(scope=site.scope, nodes=nodes, edges=edges)

    def _fresh(self, rule: Rule, site: Site, name: str, number: int) -> str:
        """The path of a new module, called after the first that matched, and of several calls and commits numbered."""
        first = site.first
        stem = str(first.node.target).replace(".", "_") if first.is_module else first.node.name
        module = self._graph.model.get_submodule(site.scope)
        made = made_names(module)
        while (own := f"{stem}_{name}_{number + 1}" if number else f"{stem}_{name}") in made:
            number += 1
        path = below(site.scope, own)
        if hasattr(module, own):
            raise RewriteError(_taken(rule.name, site.path, path, name))
        return path

    def _removed(self, site: Site, rewiring: Rewiring) -> list[tuple[str, int]]:
        """Paths and parameters of the modules that nothing calls any more."""
        again = {call.module for call in rewiring.calls} | rewiring.read | set(rewiring.keeps)
        gone = [(name, item) for name, item in site.items.items() if name not in again]
        nodes = [(item.scope, node) for _, item in gone for node in item.nodes if node.op == "call_module"]
        paths = Counter(child_path(scope, node) for scope, node in nodes)
        self._gone.update(paths)
        alone = [
            path
            for path in paths
            if self._gone[path] == self._calls[path] and len(self._places[id(self._module(path))]) == 1
        ]
        unused = [path for each in alone for path in self._unused(each, self._used_from_outside(each))]
        return [(path, sum(p.numel() for p in self._module(path).parameters())) for path in unused]

    def _used_from_outside(self, path: str) -> set[str]:
        """Paths of modules and parameters inside the module at `path` that others use, as DiT does its first block's."""
        return {used for scope, used in self._uses_inside[path] if not is_inside(scope, path)} - {path}

    def _unused(self, path: str, used: set[str]) -> Iterator[str]:
        """The module at `path`, or of one of which something is used the parts that are not."""
        if not any(is_inside(each, path) for each in used):
            yield path
        elif path not in used:
            for name, _ in self._module(path).named_children():
                yield from self._unused(f"{path}.{name}", used)

    def _module(self, path: str) -> nn.Module:
        return self._graph.model.get_submodule(path)

    @cached_property
    def _runs(self) -> Counter[str]:
        """How often the forward of each scope runs in one forward of the model."""
        runs = Counter({"": 1})
        for path, scope in self._graph.scopes.items():  # callers before what they call
            for node in scope.graph.find_nodes(op="call_module"):
                inner = opened(self._graph.scopes, path, node)
                if inner is not None:
                    runs[inner] += runs[path]
        return runs

    @cached_property
    def _calls(self) -> Counter[str]:
        """How often each module is called."""
        return Counter(used for scope, used in _uses(self._graph, "call_module"))

    @cached_property
    def _uses_inside(self) -> dict[str, list[tuple[str, str]]]:
        """For each path the calls of modules and the parameters read at and below it, with the scopes that do so."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for scope, used in (*_uses(self._graph, "call_module"), *_uses(self._graph, "get_attr")):
            for outer in outers(used):
                found[outer].append((scope, used))
        return found


def require_distinct_names(edits: Sequence[Edit]) -> None:
    """Raise RewriteError if two edits, which do not conflict otherwise, call their new modules the same."""
    known: set[str] = set()
    for edit in edits:
        for name, path in edit.modules.items():
            if path in known:
                raise RewriteError(_taken(edit.rule, edit.path, path, name))
            known.add(path)


def _taken(rule: str, where: str, path: str, name: str) -> str:
    return f"{rule} at {where}: the name {path} is taken; call the new module something else than {name!r}"


def _uses(graph: ModelGraph, op: str) -> Iterator[tuple[str, str]]:
    for path, scope in graph.scopes.items():
        for node in scope.graph.find_nodes(op=op):
            yield path, child_path(path, node)


def _sources(resizing: Resizing) -> dict[str, None]:
    return {source: None for new in resizing.modules.values() for source in new.sources}


def _sum(changes: Iterable[Change]) -> Change:
    listed = list(changes)
    return Change(before=sum(c.before for c in listed), after=sum(c.after for c in listed))


def _times(runs: int, before: int, after: int) -> Change:
    return Change(before=runs * before, after=runs * after)


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
