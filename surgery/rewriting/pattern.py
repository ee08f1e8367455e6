"""Patterns: data that describes where a rule may apply.

A pattern is matched within the graph of each scope, on the `networkx` view of the model: its nodes are single nodes and
operators, its edges dataflow, past whatever only views, casts or takes apart (see `surgery.graph.view`).
"""

from __future__ import annotations

import string
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import count, pairwise, product
from typing import Annotated, Any, Literal

import networkx as nx
from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from surgery.analysis.roles import Role
from surgery.config import Config
from surgery.errors import MatchError
from surgery.rewriting.pattern_words import graph_words, words


def names() -> Iterator[str]:
    """a, b, ..., z, aa, ab, ...: what nodes without a name are called."""
    return ("".join(letters) for n in count(1) for letters in product(string.ascii_lowercase, repeat=n))


class _Pattern(Config, ABC):
    """Base of patterns; `|` gives alternatives."""

    @abstractmethod
    def graphs(self) -> Iterator[GraphPattern]:
        """The alternatives, each as a graph of nodes."""

    @property
    @abstractmethod
    def asks_for_roles(self) -> bool:
        """Whether a match depends on what is recognised in the model, not on functions and modules alone."""

    def __or__(self, other: _Pattern) -> AnyOf:
        return AnyOf(options=(self, other))  # type: ignore[arg-type]  # any subclass is in the union


class _Test(_Pattern):
    """Base of patterns of a single node, which is called `a`; `~` gives all other nodes."""

    @abstractmethod
    def holds(self, node: Mapping[str, Any]) -> bool:
        """Whether the node of the view with these attributes is one."""

    def graphs(self) -> Iterator[GraphPattern]:
        """The pattern of this one node."""
        yield GraphPattern(nodes={"a": self}, edges=())  # type: ignore[dict-item]

    def __invert__(self) -> Except:
        return Except(test=self)  # type: ignore[arg-type]


class NodePattern(_Test):
    """A node that is all that is given.

    Attributes:
        role: what it does, or "block" for one of the model's blocks.
        module_class: name of the class of the module that it calls.
        function: name of the function or method that it calls, e.g. "silu"; `__add__` and `add_` are "add".
        within: role of the operator that it stands in.
        scope_class: name of the class of the module whose forward makes it.
    """

    kind: Literal["node"] = "node"
    role: Role | Literal["block"] | None = None
    module_class: str | None = None
    function: str | None = None
    within: Role | None = None
    scope_class: str | None = None

    @model_validator(mode="after")
    def _can_match(self) -> NodePattern:
        if self.module_class is not None and self.function is not None:
            raise MatchError(
                f"pattern: no node calls both the module {self.module_class} and the function {self.function}; "
                "give one of them, or chain two nodes"
            )
        return self

    def holds(self, node: Mapping[str, Any]) -> bool:
        """Whether the node of the view with these attributes is one."""
        return all(node[name] == wanted for name, wanted in self._asked)

    @property
    def asks_for_roles(self) -> bool:
        """Without a function or class it may match an operator of several nodes, which is recognised by its role."""
        return bool(self.role or self.within) or (self.function is None and self.module_class is None)

    @cached_property
    def _asked(self) -> list[tuple[str, object]]:
        asked = [(name, value) for name, value in self if name != "kind" and value is not None]
        return [("is_block", True) if (name, value) == ("role", "block") else (name, value) for name, value in asked]

    def __str__(self) -> str:
        return words(self)


class Except(_Test):
    """A node that another test does not hold of."""

    kind: Literal["except"] = "except"
    test: NodeTest

    @property
    def asks_for_roles(self) -> bool:
        """It may match anything else."""
        return True

    def holds(self, node: Mapping[str, Any]) -> bool:
        """Whether the node of the view with these attributes is one."""
        return not self.test.holds(node)

    def __str__(self) -> str:
        return f"anything but {self.test}"


class AnyOf(_Test):
    """Alternatives. Of single nodes only it may itself stand for a node of a graph."""

    kind: Literal["any_of"] = "any_of"
    options: tuple[Pattern, ...] = Field(min_length=1)

    @property
    def asks_for_roles(self) -> bool:
        """Whether one of the options does."""
        return any(option.asks_for_roles for option in self.options)

    def holds(self, node: Mapping[str, Any]) -> bool:
        """Whether one of the options holds of the node of the view with these attributes."""
        return any(_test(option).holds(node) for option in self.options)

    def graphs(self) -> Iterator[GraphPattern]:
        """Those of all options, in their order."""
        for option in self.options:
            yield from option.graphs()

    def __str__(self) -> str:
        return words(self)


class Absence(Config):
    """A negative condition: what the node called `node` feeds, or reads, holds no `test`."""

    node: str
    side: Literal["followed_by", "preceded_by"]
    test: NodeTest

    def __str__(self) -> str:
        return f"{self.node} not {self.side.replace('_', ' ')} {self.test}"


class GraphPattern(_Pattern):
    """Named nodes, and edges along which tensors flow from one to another; all of them match nodes of one scope.

    A match may have other edges besides; its nodes differ from each other.
    """

    kind: Literal["graph"] = "graph"
    nodes: dict[str, NodeTest]
    edges: tuple[tuple[str, str], ...]
    without: tuple[Absence, ...] = ()

    @model_validator(mode="after")
    def _can_match(self) -> GraphPattern:
        graph = self.to_networkx()
        named = {*(end for edge in self.edges for end in edge), *(absence.node for absence in self.without)}
        if named - set(self.nodes):
            there = ", ".join(self.nodes) or "none"
            raise MatchError(f"pattern: no node is called {sorted(named - set(self.nodes))[0]!r}; there are {there}")
        if not self.nodes or not nx.is_weakly_connected(graph):
            raise MatchError(f"pattern {self}: its nodes are not connected by edges; match them by rules of their own")
        if not nx.is_directed_acyclic_graph(graph):
            cycle = " -> ".join(a for a, _ in nx.find_cycle(graph))
            raise MatchError(f"pattern {self}: can never match, as tensors cannot flow in a cycle ({cycle} -> ...)")
        return self

    @property
    def asks_for_roles(self) -> bool:
        """Whether one of its nodes does."""
        return any(test.asks_for_roles for test in (*self.nodes.values(), *(absence.test for absence in self.without)))

    def graphs(self) -> Iterator[GraphPattern]:
        """This one."""
        yield self

    def to_networkx(self) -> nx.DiGraph:
        """Its nodes, with their `test`, and edges."""
        graph = nx.DiGraph()
        graph.add_nodes_from((name, {"test": test}) for name, test in self.nodes.items())
        graph.add_edges_from(self.edges)
        return graph

    def not_followed_by(self, test: NodeTest, node: str | None = None) -> GraphPattern:
        """Only where what `node` (by default the last one) feeds holds no `test`."""
        absence = Absence(node=node or list(self.nodes)[-1], side="followed_by", test=test)
        return GraphPattern(nodes=self.nodes, edges=self.edges, without=(*self.without, absence))

    def not_preceded_by(self, test: NodeTest, node: str | None = None) -> GraphPattern:
        """Only where what `node` (by default the first one) reads holds no `test`."""
        absence = Absence(node=node or next(iter(self.nodes)), side="preceded_by", test=test)
        return GraphPattern(nodes=self.nodes, edges=self.edges, without=(*self.without, absence))

    def __str__(self) -> str:
        return ", ".join((graph_words(self.nodes, self.edges), *map(str, self.without)))


class Repeated(_Pattern):
    """A run of nodes in a row that `test` holds of, called a, b, c, ...: as long as it goes, and does not fork.

    Attributes:
        test: of each node.
        at_least: shorter runs do not match.
        at_most: longer ones are cut into runs of this length, the rest matching if it is long enough.
    """

    kind: Literal["repeated"] = "repeated"
    test: NodeTest
    at_least: PositiveInt = 2
    at_most: PositiveInt | None = None

    @model_validator(mode="after")
    def _can_match(self) -> Repeated:
        if self.at_most is not None and self.at_most < self.at_least:
            raise MatchError(f"pattern: from {self.at_least} to {self.at_most} nodes can never match; swap the numbers")
        return self

    @property
    def asks_for_roles(self) -> bool:
        """Whether its nodes do."""
        return self.test.asks_for_roles

    def graphs(self) -> Iterator[GraphPattern]:
        """The pattern of the shortest run."""
        nodes = dict(zip(names(), [self.test] * self.at_least, strict=False))
        yield GraphPattern(nodes=nodes, edges=tuple(pairwise(nodes)))

    def __str__(self) -> str:
        most = "" if self.at_most is None else f" to {self.at_most}"
        return f"{self.at_least}{most or ' or more'} {words(self.test, many=True)} in a row"


def _with_kind(pattern: Any) -> Any:
    """Data without a kind, as one writes `{"role": "mlp"}`, is that of a single node."""
    return {"kind": "node", **pattern} if isinstance(pattern, dict) else pattern


NodeTest = Annotated[NodePattern | Except | AnyOf, Field(discriminator="kind"), BeforeValidator(_with_kind)]
Pattern = Annotated[
    NodePattern | Except | AnyOf | GraphPattern | Repeated, Field(discriminator="kind"), BeforeValidator(_with_kind)
]

for _composed in (Except, AnyOf, Absence, GraphPattern, Repeated):
    _composed.model_rebuild()


def _test(pattern: _Pattern) -> _Test:
    if not isinstance(pattern, _Test):
        raise MatchError(f"pattern: {pattern} is more than a single node; use it with | only, not inside another one")
    return pattern
