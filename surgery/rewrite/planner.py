"""From rules and matches to edits and skipped sites."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property

from torch import fx, nn

from surgery.config import Config
from surgery.errors import MatchError, RewriteError
from surgery.graph import ModelGraph
from surgery.graph.paths import child_path, opened
from surgery.rewrite.edit import Change, Edit, below
from surgery.rewrite.match import find_sites
from surgery.rewrite.pattern import GraphPattern
from surgery.rewrite.place import Anchors, Place
from surgery.rewrite.replacement import Replacement, Rewiring, Sharing, require_names
from surgery.rewrite.rule import Rule
from surgery.rewrite.site import Site
from surgery.rewrite.validate import Contract, Cost


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
        self.edits: list[Edit] = []
        self.skipped: list[Skipped] = []

    def add(self, rule: Rule) -> None:
        """Decide on every match of `rule`.

        Raises:
            MatchError: the rule applies nowhere, or names a layer that does not exist.
            RewriteError: a replacement does not fit.
        """
        groups: dict[str, list[Site]] = defaultdict(list)
        for site in find_sites(self._graph, rule.pattern):
            groups[site.path].append(site)
        selected = rule.layers.select([group[0] for group in groups.values()])
        made, skipped = [], []
        taken: dict[object, str] = {}
        for path, group in groups.items():
            reason = self._refusal(rule, group, selected, taken)
            if reason is None:
                made += self._edits(rule, group)
                taken |= {item.key: path for item in group[0].items.values()}
            else:
                skipped.append(Skipped(path=path, rule=rule.name, layer=group[0].first.layer, reason=reason))
        if not made:
            raise MatchError(_nothing(self._graph, rule, skipped))
        self.edits += made
        self.skipped += skipped

    def _refusal(self, rule: Rule, group: list[Site], selected: set[str], taken: dict[object, str]) -> str | None:
        if group[0].path not in selected:
            return f"not selected by {rule.layers}"
        reason = next(filter(None, (rule.check(site) for site in group)), None)
        others = (taken[item.key] for item in group[0].items.values() if item.key in taken)
        if reason is None and len(group[0].items) > 1 and (other := next(others, None)):
            return f"overlaps {other}, which comes first"
        return reason

    def _edits(self, rule: Rule, group: list[Site]) -> list[Edit]:
        site = group[0]
        replacement = rule.replacement(site)
        if isinstance(replacement, Replacement):
            return self._swaps(rule, group, replacement)
        if isinstance(replacement, Sharing):
            return [self._sharing(rule, site, replacement)]
        return [self._rewired(rule, site.path, rule.place(site), replacement)]

    # -- modules ---------------------------------------------------------------------------------------------------

    def _swaps(self, rule: Rule, group: list[Site], replacement: Replacement) -> list[Edit]:
        """The swap of one module, called at all sites of `group`; in each of its places, if it is to be apart."""
        site = group[0]
        if not site.first.is_module:
            raise RewriteError(
                f"{site.path}: {rule.name} replaces a module, and this is none; "
                "let its check refuse such sites, or give a Rewiring"
            )
        new, *_ = [self._contract.check(each, replacement) for each in group]
        places = self._places[id(site.module)]
        apart = rule.shared == "apart" and len(places) > 1
        if rule.shared == "apart" and len(group) > len(places):
            raise RewriteError(
                f"{site.path}: is called {len(group)} times but stands in {len(places)} place(s), so it cannot be taken "
                'apart; use shared="together"'
            )
        calls = 1 if apart else len(group)
        targets = [(path,) for path in places] if apart else [tuple(places)]
        return [self._swap(rule, site, replacement, paths, new, calls, n) for n, paths in enumerate(targets)]

    def _swap(
        self,
        rule: Rule,
        site: Site,
        replacement: Replacement,
        paths: tuple[str, ...],
        new: Cost,
        calls: int,
        number: int,
    ) -> Edit:
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
            flops=_times(calls * self._runs[site.scope], old.flops, new.flops),
            flops_mixing=_times(calls * self._runs[site.scope], old.flops_mixing, new.flops_mixing),
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

    def _sharing(self, rule: Rule, site: Site, replacement: Sharing) -> Edit:
        modules = [item for item in site.items.values() if item.is_module]
        paths = tuple(item.path for item in modules)
        shapes = [{n: tuple(p.shape) for n, p in item.module.state_dict().items()} for item in modules]
        odd = next((item.path for item, shape in zip(modules, shapes, strict=True) if shape != shapes[0]), None)
        if odd is not None or len(modules) < 2:
            raise RewriteError(f"{site.path}: {odd or 'one module alone'} cannot share the weights of the first")
        counts = {id(p): p.numel() for item in modules for p in item.module.parameters()}  # once, if shared already
        flops = self._runs[site.scope] * sum(item.operator.flops for item in modules)
        mixing = self._runs[site.scope] * sum(item.operator.flops_mixing for item in modules)
        return Edit(
            path=site.path, rule=rule.name, layer=site.first.layer, replaced=site.operator.module_class,
            replacement=replacement, paths=paths, loss=rule.loss,
            params=Change(before=sum(counts.values()), after=site.operator.params),
            flops=Change(before=flops, after=flops), flops_mixing=Change(before=mixing, after=mixing),
        )  # fmt: skip

    # -- graphs ----------------------------------------------------------------------------------------------------

    def _rewired(self, rule: Rule, path: str, site: Site, rewiring: Rewiring) -> Edit:
        """The edit at `path` by a rewiring of the nodes at `site`."""
        require_names(rewiring, site.items, f"{rule.name} at {path}")
        new = self._contract.check_rewiring(site, rewiring)
        removed = self._removed(site, rewiring)
        stays = [item for name, item in site.items.items() if name in rewiring.read or name in rewiring.keeps]
        old = list(site.items.values())
        runs = self._runs[site.scope]
        return Edit(
            path=path,
            rule=rule.name,
            layer=site.first.layer,
            replaced=", ".join(dict.fromkeys(item.operator.module_class or item.node.name for item in old)),
            replacement=rewiring,
            paths=tuple(path for path, _ in removed),
            place=self._place(rule, site),
            modules={name: self._fresh(rule, site, name) for name in rewiring.modules},
            loss=rule.loss,
            params=Change(before=sum(count for _, count in removed), after=new.params),
            flops=_times(runs, sum(i.operator.flops for i in old), sum(i.operator.flops for i in stays) + new.flops),
            flops_mixing=_times(
                runs,
                sum(i.operator.flops_mixing for i in old),
                sum(i.operator.flops_mixing for i in stays) + new.flops_mixing,
            ),
        )

    def _place(self, rule: Rule, site: Site) -> Place:
        scope = self._graph.scopes[site.scope]
        anchors = self._anchors.setdefault(id(scope.graph), Anchors(scope.graph))
        nodes = {name: tuple(map(anchors.of, item.nodes)) for name, item in site.items.items()}
        edges = next((g.edges for g in rule.pattern.graphs() if set(g.nodes) == set(site.items)), ())
        return Place(scope=site.scope, nodes=nodes, edges=edges)

    def _fresh(self, rule: Rule, site: Site, name: str) -> str:
        """The path of a new module, called after the first thing that matched."""
        first = site.first
        stem = str(first.node.target).replace(".", "_") if first.is_module else first.node.name
        path = below(site.scope, f"{stem}_{name}")
        holder = self._graph.model.get_submodule(site.scope)
        if hasattr(holder, f"{stem}_{name}"):
            raise RewriteError(_taken(rule.name, site.path, path, name))
        return path

    def _removed(self, site: Site, rewiring: Rewiring) -> list[tuple[str, int]]:
        """Paths and parameters of the modules that nothing calls any more."""
        again = {call.module for call in rewiring.calls} | rewiring.read | set(rewiring.keeps)
        gone = [(name, item) for name, item in site.items.items() if name not in again]
        nodes = [(item.scope, node) for _, item in gone for node in item.nodes if node.op == "call_module"]
        paths = Counter(child_path(scope, node) for scope, node in nodes)
        return [
            (path, sum(p.numel() for p in self._module(path).parameters()))
            for path, calls in paths.items()
            if calls == self._calls[path]
            and path not in self._entered
            and len(self._places[id(self._module(path))]) == 1
        ]

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
    def _entered(self) -> set[str]:
        """The modules of which others call or read a part, as DiT's last layer does with its first block."""
        targets = [(path, str(node.target).split(".")) for path, node in _read(self._graph)]
        return {below(path, ".".join(parts[:n])) for path, parts in targets for n in range(1, len(parts))}

    @cached_property
    def _calls(self) -> Counter[str]:
        """How often each module is called."""
        return Counter(child_path(path, node) for path, node in _calls(self._graph))


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


def _calls(graph: ModelGraph) -> Iterator[tuple[str, fx.Node]]:
    for path, scope in graph.scopes.items():
        for node in scope.graph.find_nodes(op="call_module"):
            yield path, node


def _read(graph: ModelGraph) -> Iterator[tuple[str, fx.Node]]:
    """Every node that calls or reads a part of the module of its scope."""
    for path, scope in graph.scopes.items():
        yield from ((path, node) for node in scope.graph.nodes if node.op in ("call_module", "get_attr"))


def _times(runs: int, before: int, after: int) -> Change:
    return Change(before=runs * before, after=runs * after)


def _nothing(graph: ModelGraph, rule: Rule, skipped: Sequence[Skipped]) -> str:
    """Why `rule` applies nowhere, with the nearest misses."""
    head = f"{rule.name}: no {rule.pattern} to replace in {graph.root.module_class.__name__}"
    if skipped:
        nearest = max(skipped, key=lambda s: not s.reason.startswith("not selected"))
        return f"{head}; {len(skipped)} matched and were skipped, e.g. {nearest.path}: {nearest.reason}"
    if isinstance(rule.pattern, GraphPattern):
        for name, test in rule.pattern.nodes.items():
            if not find_any(graph, test):
                return f"{head}; nothing in it is {name}: {test}"
    there = Counter(o.role for o in graph.operators() if o.role.endswith("attention") or o.role == "mlp")
    found = ", ".join(f"{count} {role.replace('_', '-')}" for role, count in there.items())
    return f"{head}; it has {found or 'no operators that are recognised'}"


def find_any(graph: ModelGraph, test: object) -> bool:
    """Whether any node of the view passes `test`."""
    return any(test.holds(attributes) for _, attributes in graph.view.nodes(data=True))  # type: ignore[attr-defined]
