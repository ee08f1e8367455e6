"""Applying rewirings to the graph of a recording: a double-pushout rewrite with all matches fixed beforehand."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
from torch import fx, nn

from surgery.analysis.arguments import bound_arguments, called_class, with_arguments
from surgery.analysis.numbers import with_numbers
from surgery.analysis.readers import is_guard, is_view, items_of, readers_of, takes
from surgery.analysis.roles.primitives import name_of
from surgery.errors import RewriteError
from surgery.recording.copying import copied_graph
from surgery.recording.paths import child_path, names_of, relative
from surgery.recording.recording import Recording, Scope
from surgery.recording.torch_private import is_erased, reorder
from surgery.rewriting.evaluator import Evaluator
from surgery.rewriting.graphs.anchors import Anchors, Place
from surgery.rewriting.graphs.given import given_to, require_same
from surgery.rewriting.replacement import Call, New, Number, Rewiring
from surgery.rewriting.trial import built
from surgery.rewriting.values import parse

Nodes = Mapping[str, tuple[fx.Node, ...]]


@dataclass(frozen=True)
class Bound:
    """A rewiring at its place.

    Attributes:
        rewiring: new calls, and what they stand for.
        place: the matched nodes.
        modules: the name that each new module gets in the module of the scope.
        removed: the paths of the modules that are taken out of the model, or give way to others of other sizes.
        numbers: those in the arguments of matched nodes that change.
    """

    rewiring: Rewiring
    place: Place
    modules: Mapping[str, str]
    removed: tuple[str, ...] = ()
    numbers: Mapping[str, tuple[Number, ...]] = field(default_factory=dict)


def rewired(
    recording: Recording, bound: Sequence[Bound], scopes: Mapping[str, Scope], aliases: Mapping[str, str] | None = None
) -> Recording:
    """`recording` with the edits `bound` made to a copy of its graph.

    Args:
        recording: of the scope that all of the edits are in.
        bound: edits whose matches do not overlap.
        scopes: of the model, which tell the parameters of the modules that are called.
        aliases: other paths of modules by which `bound` knows them.

    Raises:
        RewriteError: the graph has not the matched nodes, a value that would be taken out is read by others, or the
            result has a cycle.
    """
    graph = copied_graph(recording.graph)
    for node in graph.find_nodes(op="call_module"):
        node.target = (aliases or {}).get(str(node.target), node.target)
    found = Anchors(graph).find(each.place for each in bound)
    order = _Order(graph)
    for each, matches in zip(bound, found, strict=True):
        for nodes in matches:
            _Rewriter(graph, each, nodes, scopes, order).rewrite()
    _restore_order(graph, order, recording.has_effects, bound[0].place.scope)
    graph.lint()
    # What was recorded under autocast, or of modules that are gone, says nothing about the edited graph.
    signature = (recording.signature[0], (), *recording.signature[2:])
    return dataclasses.replace(recording, graph=graph, signature=signature, state=_state(recording, bound))


def _state(recording: Recording, bound: Sequence[Bound]) -> Any:
    """The attributes that the forward read, without those of modules that matched or are gone, and of what others hold.

    The latter is what edits change: a forward that asks for its first parameter reads the list of all of its modules. An
    edited graph calls modules by their names.
    """
    anchors = (a for each in bound for group in each.place.nodes.values() for a in group if a.op == "call_module")
    matched = {tuple(anchor.target.split(".")) for anchor in anchors}
    matched |= {names_of(relative(path, each.place.scope)) for each in bound for path in each.removed}

    def is_kept(entry: Any) -> bool:
        path, name, _ = entry
        full = (*path, name)
        return name != "_modules" and not any(full[:n] in matched for n in range(1, len(full) + 1))

    return tuple(entry for entry in recording.state if is_kept(entry))


class _Order:
    """Where each node stands: the number of an old node, and for new ones that of the node that they follow."""

    def __init__(self, graph: fx.Graph) -> None:
        self._rank: dict[fx.Node, tuple[int, int]] = {node: (n, 0) for n, node in enumerate(graph.nodes)}
        self._tail: dict[int, fx.Node] = {n: node for node, (n, _) in self._rank.items()}

    def of(self, node: fx.Node) -> tuple[int, int]:
        """The rank of `node`."""
        return self._rank[node]

    def is_new(self, node: fx.Node) -> bool:
        """Whether `node` was put in."""
        return self._rank[node][1] > 0

    def after(self, nodes: Iterable[fx.Node]) -> fx.Node:
        """The last of `nodes`, or what was put in after it."""
        return self._tail[max(self._rank[node] for node in nodes)[0]]

    def add(self, node: fx.Node, after: fx.Node) -> None:
        """Note that `node` was put in after the node `after`."""
        number, place = self._rank[after]
        self._rank[node] = (number, place + 1)
        self._tail[number] = node


class _Rewriter(Evaluator):
    """Makes one rewiring of a graph; its values are nodes and constants."""

    def __init__(self, graph: fx.Graph, bound: Bound, nodes: Nodes, scopes: Mapping[str, Scope], order: _Order) -> None:
        super().__init__()
        self._graph, self._rewiring, self._bound = graph, bound.rewiring, bound
        self._nodes = nodes
        self._scopes, self._path = scopes, bound.place.scope
        self._order = order
        kept = bound.rewiring.read | set(bound.rewiring.keeps)
        gone = [node for name, group in nodes.items() if name not in kept for node in group]
        self._last = order.after(gone or [node for group in nodes.values() for node in group])

    def rewrite(self) -> None:
        """Put in the calls, let all others read the new values, and take out what is not read any more."""
        if planned := self._bound.place.given:
            now = given_to(self._scopes, self._path, self._nodes)
            require_same(self._rewiring, planned, now, self._nodes)
        for name, numbers in self._bound.numbers.items():
            node = self._nodes[name][0]
            node.args, node.kwargs = with_numbers(node, [(number.at, number.value) for number in numbers])
        old = {value: self._existing(value) for value in self._rewiring.results}
        users = {value: [(node, user) for node in nodes for user in node.users] for value, nodes in old.items()}
        self.make(self._rewiring.calls)
        for value, by in self._rewiring.results.items():
            is_viewed = any(name_of(user) == "view" for _, user in users[value])
            new = self._contiguous(self.of(by)) if is_viewed or parse(by).swapped else self.of(by)
            for node, user in users[value]:
                if not is_guard(user):
                    user.replace_input_with(node, new)
        self._take_out()

    # -- values ----------------------------------------------------------------------------------------------------

    def arguments(self, name: str) -> dict[str, Any]:
        """What the matched node is called with, as nodes and constants."""
        return bound_arguments(self._scopes, self._path, self._nodes[name])

    def result(self, name: str) -> fx.Node:
        """The node whose result is that of the matched one: of several, the one that others read."""
        nodes = self._nodes[name]
        read = [n for n in nodes if any(user not in nodes and not is_guard(user) for user in n.users)]
        if len(nodes) > 1 and len(read) != 1:
            raise RewriteError(f"{self.where(name)} gives {len(read)} results to others; name a single one")
        return read[0] if len(nodes) > 1 else nodes[0]

    def item(self, found: Any, item: int | str, value: str) -> Any:
        """The node that takes the item; a new one, if none does before it is needed."""
        if not isinstance(found, fx.Node):
            return super().item(found, item, value)
        known = next((user for user in found.users if takes(user, found, item)), None)
        if known is not None and self._order.of(known) <= self._order.of(self._order.after([self._last])):
            return known
        return self._insert(lambda: self._graph.call_function(operator.getitem, (found, item)), [found])

    def transposed(self, found: Any, axes: tuple[int, int], value: str) -> Any:
        """A new node that swaps the axes."""
        if not isinstance(found, fx.Node):
            return super().transposed(found, axes, value)
        return self._insert(lambda: self._graph.call_method("transpose", (found, *axes)), [found])

    def call(self, call: Call, given: dict[str, Any]) -> fx.Node:
        """The node of a new call."""
        args: tuple[Any, ...] = ()
        if call.like is not None:
            like = self._nodes[call.like][0]
            try:
                args, given = with_arguments(self._scopes, self._path, like, given)
            except KeyError as error:
                raise RewriteError(f"{self.where(call.like)} takes no argument {error}") from None
        target = self._bound.modules.get(call.module) or str(self._nodes[call.module][0].target)
        reads: list[fx.Node] = []
        fx.node.map_arg((args, given), reads.append)
        node = self._insert(lambda: self._graph.call_module(target, args, given), reads)
        node.meta["module_class"] = self._class(call.module)  # a later commit asks for the names of its arguments
        return node

    def _class(self, name: str) -> type[nn.Module]:
        """The class of the module called `name`."""
        new = self._rewiring.modules.get(name)
        if isinstance(new, New):
            return _class_of(new)
        node = self._nodes[name if new is None else new.of][0]
        return called_class(self._scopes, self._path, node)

    def where(self, name: str) -> str:
        """The path of a matched node."""
        if name not in self._nodes:
            return self._path or "the model"
        node = self._nodes[name][0]
        return child_path(self._path, node) if node.op == "call_module" else f"{self._path}:{node.name}"

    # -- changes ---------------------------------------------------------------------------------------------------

    def _existing(self, value: str) -> list[fx.Node]:
        """The nodes that hold an old value now."""
        name, argument, items, _ = parse(value)
        if argument is not None:
            raise RewriteError(f"{self.where(name)}: {value} is an argument; only results can be replaced")
        return items_of(self.result(name), items)

    def _insert(self, make: Any, reads: Sequence[fx.Node]) -> fx.Node:
        """Put in a node after all that is taken out, or all that matched, and all that it reads."""
        after = self._order.after([self._last, *reads])
        with self._graph.inserting_after(after):
            node: fx.Node = make()
        self._order.add(node, after)
        return node

    def _contiguous(self, node: fx.Node) -> fx.Node:
        """Laid out in memory as it is read, for those who view it."""
        return self._insert(lambda: self._graph.call_method("contiguous", (node,)), [node])

    def _take_out(self) -> None:
        kept = self._rewiring.read | set(self._rewiring.keeps)
        matched = {node: name for name, nodes in self._nodes.items() if name not in kept for node in nodes}
        for node, name in reversed(matched.items()):
            leak = next((user for user in readers_of(node) if user not in matched), None)
            if leak is not None:
                raise RewriteError(
                    f"{self.where(name)} is also read by {leak.op if leak.op == 'output' else leak.name}, which is not "
                    f"part of the match; replace that result too, or keep {name}"
                )
        for node in reversed(matched):
            if not is_erased(node):
                _erase(self._graph, node)


@functools.cache
def _class_of(new: New) -> type[nn.Module]:
    """The class that `new` builds."""
    return type(built(new.operator.kind, new, None))


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Take out `node`, with guards and views of its result, and views above that nothing else reads."""
    for user in list(node.users):
        _erase(graph, user)
    if is_erased(node):  # as what the last of its users read
        return
    above = node.all_input_nodes
    graph.erase_node(node)
    for source in above:
        if not source.users and is_view(source):
            _erase(graph, source)


def _restore_order(graph: fx.Graph, order: _Order, has_effects: bool, where: str) -> None:
    """Let every node stand after all that it reads, in the old order as far as that goes."""
    nodes = list(graph.nodes)
    if all(order.of(source) <= order.of(node) for node in nodes for source in node.all_input_nodes):
        return
    flow = nx.DiGraph()
    flow.add_nodes_from(nodes)
    flow.add_edges_from((source, node) for node in nodes for source in node.all_input_nodes)
    try:
        ordered = list(nx.lexicographical_topological_sort(flow, order.of))
    except nx.NetworkXUnfeasible:
        stuck = next(node for node, _ in nx.find_cycle(flow) if order.is_new(node))
        raise RewriteError(
            f"{where or 'the model'}: the call of {stuck.target} would need its own result: a cycle"
        ) from None
    old = [order.of(node) for node in ordered if not order.is_new(node)]
    if has_effects and old != sorted(old):
        raise RewriteError(f"{where or 'the model'}: the edit would change the order of operations with side effects")
    reorder(graph, ordered)
