"""Attention: a product of three projections of tokens, (q k^T) v, in one call or written out, with softmax or without."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx, nn

from surgery.analysis.overlapping import overlapping
from surgery.analysis.roles.flow import ScopedNode
from surgery.analysis.roles.operator import Recognised, Role
from surgery.analysis.roles.primitives import (
    factors_of,
    inputs_of,
    is_attention,
    is_linear,
    is_module,
    is_product,
    is_softmax,
)
from surgery.analysis.roles.structure import Structure
from surgery.recording.paths import child_path

Factors = tuple[frozenset[ScopedNode], ...]


@dataclass(frozen=True)
class AttentionProduct:
    """One (q k^T) v: where its result is, and the linear maps nearest above each of its three factors."""

    place: ScopedNode
    query: frozenset[ScopedNode]
    key: frozenset[ScopedNode]
    value: frozenset[ScopedNode]

    @property
    def projections(self) -> frozenset[ScopedNode]:
        """All three."""
        return self.query | self.key | self.value


def find_products(structure: Structure) -> list[AttentionProduct]:
    """Every product of three projections, in execution order; `nn.MultiheadAttention` has its own inside and is none."""
    found = []
    for place in structure.flow.order:
        if is_module(place[1], (nn.MultiheadAttention,)):
            continue
        factors = _given(place) if is_attention(place[1]) else _written_out(structure, place)
        projections = [frozenset(_projections(structure, factor)) for factor in factors]
        if projections and all(projections):
            found.append(AttentionProduct(place, *projections))
    return found


def find_attention(structure: Structure, products: list[AttentionProduct]) -> list[Recognised]:
    """Each attention: the smallest module that encloses a product and its projections, or those nodes of a block."""
    found = [_multihead(place) for place in structure.flow.order if is_module(place[1], (nn.MultiheadAttention,))]
    scopes: dict[str, list[AttentionProduct]] = defaultdict(list)
    for product in products:
        scopes[structure.flow.smallest_scope([product.place, *product.projections])].append(product)
    for path, inside in scopes.items():
        if structure.is_module(path):
            found.append(Recognised(_role(structure, inside[0], path), path))
        else:
            found += [_subgraph(structure, group, path) for group in _groups(inside)]
    return found


def _multihead(place: ScopedNode) -> Recognised:
    """`nn.MultiheadAttention` is one whole: it tells self-attention by its arguments."""
    query, key = (place[1].args + tuple(place[1].kwargs.values()))[:2]
    return Recognised("self_attention" if query is key else "cross_attention", child_path(*place))


def _given(place: ScopedNode) -> list[ScopedNode]:
    """Query, key and value of an attention in one call."""
    path, node = place
    given = dict(zip(("query", "key", "value"), node.args, strict=False)) | dict(node.kwargs)
    return [(path, n) for name in ("query", "key", "value") if isinstance(n := given.get(name), fx.Node)]


def _written_out(structure: Structure, place: ScopedNode) -> list[ScopedNode]:
    """Query, key and value, if at `place` a product is multiplied once more; a softmax tells which is which."""
    factors = [(place[0], factor) for factor in factors_of(place[1])]
    for inner, other in zip(factors, factors[::-1], strict=True):
        way = list(structure.flow.walk([inner], lambda p: is_product(p[1]) or _ends(structure, p)))
        product = next((p for p in way if is_product(p[1])), None)
        if product is not None:
            first, second = ((product[0], factor) for factor in factors_of(product[1]))
            return [first, second, other] if any(is_softmax(n) for _, n in way) else [other, first, second]
    return []


def _ends(structure: Structure, place: ScopedNode) -> bool:
    """Whether a search for projections stops at `place`: beyond it are other sublayers."""
    return is_linear(place[1]) or is_attention(place[1]) or place in structure.residuals


def _projections(structure: Structure, factor: ScopedNode) -> list[ScopedNode]:
    """The linear maps nearest above `factor`."""
    way = structure.flow.walk([factor], lambda place: _ends(structure, place), above=structure.spine)
    return [place for place in way if is_linear(place[1])]


def _role(structure: Structure, product: AttentionProduct, path: str) -> Role:
    """Which attention it is, told from the streams that queries and keys read."""
    query, key = structure.streams(product.query, path), structure.streams(product.key, path)
    if not query & key:
        return "cross_attention"
    return "self_attention" if len(query | key) == 1 else "joint_attention"


def _groups(products: Sequence[AttentionProduct]) -> list[list[AttentionProduct]]:
    """Cores of one scope, those that share projections together."""
    return [[products[n] for n in group] for group in overlapping([each.projections for each in products])]


def _subgraph(structure: Structure, products: list[AttentionProduct], path: str) -> Recognised:
    """The projections, the products, the output projection and all in between, as nodes of the scope at `path`."""
    places: set[ScopedNode] = set()
    for product in products:
        places |= product.projections | structure.flow.between(product.projections, product.place, path)
    ends = structure.flow.nodes_in(path, [product.place for product in products])
    inner = {*structure.flow.nodes_in(path, places), *_down_to_linear(structure, path, ends)}
    return Recognised(_role(structure, products[0], path), path, structure.flow.in_order(path, inner))


def _down_to_linear(structure: Structure, path: str, starts: Iterable[fx.Node]) -> list[fx.Node]:
    """From the result of an attention to its output projection; nothing if there is none before a residual addition."""
    seen: list[fx.Node] = []
    stack = [user for start in starts for user in start.users]
    while stack:
        node = stack.pop()
        if node in seen or (path, node) in structure.residuals or not inputs_of(node):
            continue
        seen.append(node)
        if is_linear(node):
            return seen
        stack += list(node.users)
    return []
