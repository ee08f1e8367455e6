"""Where an edit of a graph applies, as plain data that finds its nodes again in another recording of the same scope."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pydantic import Field
from torch import fx

from surgery.config import Config
from surgery.errors import RewriteError
from surgery.graph.view import feeds


class Anchor(Config):
    """One node: the `ordinal`-th of the `count` in its graph that have its `op` and `target`."""

    op: str
    target: str
    ordinal: int
    count: int


class Place(Config):
    """The matched nodes by the names that the pattern gives them, and the dataflow between them.

    Attributes:
        scope: path of the scope whose graph they stand in.
        nodes: their anchors, several for an operator that is made of several nodes.
        edges: pairs of names between which tensors flow.
        repeated: as of a rewiring.
        given: what those nodes are called with that new operators take the place of.
    """

    scope: str
    nodes: dict[str, tuple[Anchor, ...]]
    edges: tuple[tuple[str, str], ...] = ()
    repeated: bool = False
    given: dict[str, tuple[dict[str, str], ...]] = Field(default={})


def turns(node: fx.Node) -> list[fx.Node]:
    """The nodes that the same line has made as `node`, in the turns of a loop; of most nodes that is not known."""
    line = node.meta.get("called_from")
    if line is None:
        return [node]
    return [
        other for other in node.graph.nodes if other.target == node.target and other.meta.get("called_from") == line
    ]


class Anchors:
    """The nodes of a graph by their anchors."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._alike: dict[tuple[str, str], list[fx.Node]] = defaultdict(list)
        self._ordinals: dict[fx.Node, int] = {}
        for node in graph.nodes:
            alike = self._alike[node.op, _target(node)]
            self._ordinals[node] = len(alike)
            alike.append(node)

    def of(self, node: fx.Node) -> Anchor:
        """The anchor of `node`."""
        count = len(self._alike[node.op, _target(node)])
        return Anchor(op=node.op, target=_target(node), ordinal=self._ordinals[node], count=count)

    def find(self, places: Iterable[Place]) -> list[list[dict[str, tuple[fx.Node, ...]]]]:
        """The nodes of each place by their names, of one that is repeated as often as it is.

        Raises:
            RewriteError: the graph has not the nodes, or no such dataflow between them.
        """
        found = []
        for place in places:
            if place.repeated:
                found.append(self._turns(place))
                continue
            nodes = {name: tuple(map(self._node, anchors)) for name, anchors in place.nodes.items()}
            for a, b in place.edges:
                if not any(feeds(source, user) for user in nodes[b] for source in nodes[a]):
                    ends = f"{_shown(a, place)} does not feed {_shown(b, place)}"
                    raise RewriteError(f"{place.scope or 'the model'}: {ends} on this way through")
            found.append([nodes])
        return found

    def _turns(self, place: Place) -> list[dict[str, tuple[fx.Node, ...]]]:
        """Of a place of one node."""
        ((name, (anchor,)),) = place.nodes.items()
        alike = self._alike[anchor.op, anchor.target]
        first = alike[anchor.ordinal] if len(alike) == anchor.count else next(iter(alike), None)
        nodes = [] if first is None else turns(first)
        if len(alike) != anchor.count and nodes != alike:
            self._node(anchor)  # raises: which of them is meant is not known
        return [{name: (node,)} for node in nodes]

    def _node(self, anchor: Anchor) -> fx.Node:
        alike = self._alike[anchor.op, anchor.target]
        if len(alike) != anchor.count:
            raise RewriteError(f"{anchor.target} occurs {len(alike)} times on this way through, not {anchor.count}")
        return alike[anchor.ordinal]


def _target(node: fx.Node) -> str:
    if node.op == "output":
        return ""
    if isinstance(node.target, str):
        return node.target
    return f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}"


def _shown(name: str, place: Place) -> str:
    return f"{name} ({place.nodes[name][0].target})"
