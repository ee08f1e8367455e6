"""How patterns are written: `node("mlp")`, `chain(...)`, `consecutive(block(), 2)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from surgery.analysis.roles import Role
from surgery.errors import MatchError
from surgery.rewriting.pattern import GraphPattern, NodePattern, NodeTest, Repeated, names


def node(
    role: Role | None = None, *, module_class: str | None = None, function: str | None = None,
    within: Role | None = None, scope_class: str | None = None,
) -> NodePattern:  # fmt: skip
    """A single node: by role, class of the module, name of the function, what it stands in; see `NodePattern`."""
    return NodePattern(role=role, module_class=module_class, function=function, within=within, scope_class=scope_class)


def block(module_class: str | None = None) -> NodePattern:
    """One of the model's blocks, of any class or of a given one."""
    return NodePattern(role="block", module_class=module_class)


def chain(*tests: NodeTest, **named: NodeTest) -> GraphPattern:
    """Nodes one after the other, each reading the one before it; unnamed ones are called a, b, c, ..."""
    nodes = _named(tests, named)
    return GraphPattern(nodes=nodes, edges=tuple(pairwise(nodes)))


def fork(source: NodeTest, *tests: NodeTest, **named: NodeTest) -> GraphPattern:
    """`source`, which is called `source`, and nodes that all read it; unnamed ones are called a, b, c, ..."""
    branches = _named(tests, named)
    return GraphPattern(nodes={"source": source, **branches}, edges=tuple(("source", name) for name in branches))


def consecutive(test: NodeTest, count: int) -> GraphPattern:
    """`count` nodes in a row, called a, b, c, ...: `consecutive(block(), 2)` are two blocks, one after the other."""
    return chain(*[test] * count)


def repeated(test: NodeTest, at_least: int = 2, at_most: int | None = None) -> Repeated:
    """As many nodes in a row as there are; see `Repeated`."""
    return Repeated(test=test, at_least=at_least, at_most=at_most)


def _named(tests: Iterable[NodeTest], named: Mapping[str, NodeTest]) -> dict[str, NodeTest]:
    lettered = dict(zip(names(), tests, strict=False))
    twice = next(iter(lettered.keys() & named.keys()), None)
    if twice is not None:
        raise MatchError(
            f"pattern: the name {twice!r} is given twice, as nodes without one are a, b, c, ...; choose another"
        )
    if not lettered and not named:
        raise MatchError("pattern: there are no nodes to match; give one at least, such as node('mlp')")
    return lettered | dict(named)
