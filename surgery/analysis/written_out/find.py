"""Softmax attention that a forward writes out is found.

There are too many ways to write it to tell them apart by their text: a scale may stand before the product, after it, or
on both sides, keys may be transposed or an einsum may do it. So the nodes between three factors and a product are run on
random numbers, and they are this attention if they give what `scaled_dot_product_attention` gives.

Shape legend: B batch, H heads, N queries, M keys, K features of a head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import fx, nn

from surgery.analysis.readers import readers_of
from surgery.analysis.roles.primitives import (
    ADDS,
    factors_of,
    inputs_of,
    is_layout,
    is_module,
    is_product,
    is_softmax,
    name_of,
    shape_of,
)
from surgery.analysis.written_out.attention import LAYOUTS, Hiding, Layout, WrittenOut
from surgery.analysis.written_out.trial import ModuleOf, computes_attention

BETWEEN = {"mul", "rmul", "div", "truediv", "dropout", *ADDS}
LOW = -1000.0
"""The largest number that hides a score: after the softmax nothing is left of it beside others."""
SCALINGS = {"mul", "rmul", "div", "truediv", "transpose", "permute", "swapaxes", "mT", "getattr"}
"""What may stand between a factor and the product, besides layout: nothing that learns."""


def find_written_out(graph: fx.Graph, module_of: ModuleOf) -> list[WrittenOut]:
    """Every attention that the graph of a recording writes out.

    Args:
        graph: of a recording.
        module_of: the module that a node calls; only those without parameters are run.
    """
    nodes = list(graph.nodes)
    found = (_at(node, nodes, module_of) for node in nodes if is_product(node) and len(shape_of(node)) in (3, 4))
    return [each for each in found if each is not None]


def _at(result: fx.Node, nodes: Sequence[fx.Node], module_of: ModuleOf) -> WrittenOut | None:
    """The attention that `result` is the last product of: laid out plainly from some factors on, or else otherwise."""
    candidates = list(_candidates(result, nodes))
    tried = (replace(made, layout=layout) for layout in _layouts(len(shape_of(result))) for made in candidates)
    return next((made for made in tried if _fits(made) and computes_attention(made, module_of)), None)


def _layouts(rank: int) -> Iterator[Layout]:
    """All of so many axes, the plain one first."""
    return (Layout(*each) for each in itertools.product(LAYOUTS[rank], repeat=len(Layout._fields)))


def _candidates(result: fx.Node, nodes: Sequence[fx.Node]) -> Iterator[WrittenOut]:
    """What of three factors may be an attention, and is read by nothing on the way."""
    for weights, value in itertools.permutations(factors_of(result)):
        between = _up_to_product(weights)
        if between is None or not any(map(is_softmax, between)):
            continue
        *_, scores = between
        bias = next(filter(None, map(_bias, between)), None)
        hiding = next(filter(None, map(Hiding.of, between)), None)
        empty = [n for n in inputs_of(scores) if not inputs_of(n) and n.op == "call_function"]  # as baddbmm has
        beside = [*empty, *(hiding.made if hiding else [])]
        for first, second in itertools.permutations(factors_of(scores)):
            for query_way, key_way in itertools.product(_ways_up(first), _ways_up(second)):
                inner = {result, *between, *beside, *query_way[:-1], *key_way[:-1]}
                factors = (query_way[-1], key_way[-1], value)
                made = WrittenOut(tuple(n for n in nodes if n in inner), *factors, bias, hiding)
                if _is_closed(made):
                    yield made


def _up_to_product(weights: fx.Node) -> list[fx.Node] | None:
    """From `weights` up to the product of queries and keys: one tensor at a time, of one size, past one bias and mask."""
    way = [weights]
    while not is_product(way[-1]):
        if not _may_stand_between(way[-1]):
            return None
        sources = [source for source in _changed(way[-1]) if source is not _bias(way[-1])]
        if len(sources) != 1 or (shape_of(sources[0]) != shape_of(way[-1]) and not is_layout(way[-1])):
            return None
        way += sources
    return way if all(len([n for n in way if test(n)]) < 2 for test in (_bias, Hiding.of)) else None


def _may_stand_between(node: fx.Node) -> bool:
    """Whether `node` may be on the way from scores to weights: what moves or limits them is another attention."""
    known = is_layout(node) or is_softmax(node) or Hiding.of(node) is not None
    return known or name_of(node) in BETWEEN or is_module(node, (nn.Dropout,))


def _bias(node: fx.Node) -> fx.Node | None:
    """What `node` adds to scores: of its two arguments the one that is of another shape, or no product."""
    added = inputs_of(node)
    if name_of(node) not in ADDS or len(added) != 2:
        return None
    odd = [each for each in added if shape_of(each) != shape_of(node) or not _is_scores(each)]
    return odd[0] if len(odd) == 1 else None


def _is_scores(node: fx.Node) -> bool:
    """Whether a product of two computed matrices is found above `node`, as far as one tensor goes."""
    while not is_product(node):
        sources = _changed(node)
        if len(sources) != 1:
            return False
        node = sources[0]
    return True


def _ways_up(factor: fx.Node) -> list[list[fx.Node]]:
    """From `factor` up through scalings and transpositions, as far as each of them."""
    ways = [[factor]]
    while (name_of(factor) in SCALINGS or is_layout(factor)) and len(sources := _changed(factor)) == 1:
        factor = sources[0]
        ways.append([*ways[-1], factor])
    return ways


def _changed(node: fx.Node) -> list[fx.Node]:
    """The tensors that `node` computes with; of a cast not the one whose dtype it takes, nor a mask."""
    if hiding := Hiding.of(node):
        return [hiding.scores]
    return inputs_of(node)[:1] if is_layout(node) else inputs_of(node)


def _is_closed(made: WrittenOut) -> bool:
    """Whether nothing else reads what is computed on the way."""
    inside = set(made.nodes)
    return all(user in inside for node in made.nodes[:-1] for user in readers_of(node))


def _fits(made: WrittenOut) -> bool:
    """Whether the factors are laid out as a core takes them, and are arguments of nodes."""
    if not all(any(made.readers(factor)) for factor in (made.query, made.key, made.value)):
        return False
    if len({len(shape_of(node)) for node in (made.query, made.key, made.value, made.nodes[-1])}) > 1:
        return False
    query, key, value, result = made.shapes
    scores = (*query[:-1], key[-2])
    if made.hiding and not (_fits_scores(made.hiding.mask, scores) and _can_fill(made.hiding)):
        return False
    if made.bias is not None and not made.bias.meta["val"].is_floating_point():
        return False
    same = key == value and query[:-2] == key[:-2] and query[-1] == key[-1]
    return same and result == query and _fits_scores(made.bias, scores)


def _can_fill(hiding: Hiding) -> bool:
    """Whether what it gives to hidden keys can be given to a core, which takes minus infinity if it is given nothing."""
    return hiding.fill == -math.inf if hiding.made else hiding.fill <= LOW


def _fits_scores(bias: fx.Node | None, scores: tuple[int, ...]) -> bool:
    """Whether there is no bias, or one that is expanded to the `scores` (B, H, N, M)."""
    if bias is None:
        return True
    pairs = zip(reversed(shape_of(bias)), reversed(scores), strict=False)
    return 0 < len(shape_of(bias)) <= len(scores) and all(size in (1, full) for size, full in pairs)
