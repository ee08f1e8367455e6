"""Softmax attention that a forward writes out, softmax(q k^T / sqrt(K) + bias) v: found, and tried with numbers.

There are too many ways to write it to tell them apart by their text: a scale may stand before the product, after it, or
on both sides, keys may be transposed or an einsum may do it. So the nodes between three factors and a product are run on
random numbers, and they are this attention if they give what `scaled_dot_product_attention` gives.

Shape legend: B batch, H heads, N queries, M keys, K features of a head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from surgery.analysis.arguments import argument_of
from surgery.analysis.readers import readers_of
from surgery.analysis.roles.primitives import (
    ADDS,
    factors_of,
    inputs_of,
    is_layout,
    is_product,
    is_softmax,
    name_of,
    shape_of,
    tensors,
)
from surgery.analysis.small_run import evaluated

SCALINGS = {"mul", "rmul", "div", "truediv", "transpose", "permute", "swapaxes", "mT", "getattr"}
"""What may stand between a factor and the product, besides layout: nothing that learns."""

MASK, FILL = (1, "mask"), (2, "value")
"""Where `masked_fill` takes what it hides, and the score that this gets."""

QUERIES, KEYS = 3, 5
SCORES = (1, 2, QUERIES, KEYS)
MOST_SCORES = 1 << 16

ModuleOf = Callable[[fx.Node], nn.Module]


@dataclass(frozen=True)
class WrittenOut:
    """One attention.

    Attributes:
        nodes: what computes it from the factors, in execution order; the last gives the result.
        query, key, value: what makes the factors: (B, H, N, K) and twice (B, H, M, K), or (B H, N, K) and such.
        bias: what is added to the scores, of a shape that can be expanded to theirs; None if nothing is.
        hiding: the `masked_fill` of scores, which hides keys from queries; None if there is none.
    """

    nodes: tuple[fx.Node, ...]
    query: fx.Node
    key: fx.Node
    value: fx.Node
    bias: fx.Node | None = None
    hiding: fx.Node | None = None

    @property
    def hidden(self) -> fx.Node | None:
        """The boolean mask, true where a key is hidden."""
        return None if self.hiding is None else argument_of(self.hiding, MASK)

    @property
    def fill(self) -> Any:
        """The score that a hidden key gets."""
        return None if self.hiding is None else argument_of(self.hiding, FILL)

    def readers(self, factor: fx.Node) -> Iterator[tuple[fx.Node, str]]:
        """Which of the nodes read `factor`, and by which position or name they do."""
        for node in self.nodes:
            for name, argument in (*enumerate(node.args), *node.kwargs.items()):
                if argument is factor:
                    yield node, str(name)


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
    """The attention that `result` is the last product of."""
    for weights, value in itertools.permutations(factors_of(result)):
        between = _up_to_product(weights)
        if between is None or not any(map(is_softmax, between)):
            continue
        *_, scores = between
        bias = next(filter(None, map(_bias, between)), None)
        hiding = next(filter(_hides, between), None)
        for first, second in itertools.permutations(factors_of(scores)):
            empty = [n for n in inputs_of(scores) if not inputs_of(n) and n.op == "call_function"]  # as baddbmm has
            for query_way, key_way in itertools.product(_ways_up(first), _ways_up(second)):
                inner = {result, *between, *empty, *query_way[:-1], *key_way[:-1]}
                made = WrittenOut(
                    tuple(n for n in nodes if n in inner), query_way[-1], key_way[-1], value, bias, hiding
                )
                if _is_closed(made) and _fits(made) and _computes_attention(made, module_of):
                    return made
    return None


def _up_to_product(weights: fx.Node) -> list[fx.Node] | None:
    """From `weights` up to the product of queries and keys: one tensor at a time, of one size, past one bias and mask."""
    way = [weights]
    while not is_product(way[-1]):
        sources = [source for source in _changed(way[-1]) if source is not _bias(way[-1])]
        if len(sources) != 1 or (shape_of(sources[0]) != shape_of(way[-1]) and not is_layout(way[-1])):
            return None
        way += sources
    return way if all(len([n for n in way if test(n)]) < 2 for test in (_bias, _hides)) else None


def _bias(node: fx.Node) -> fx.Node | None:
    """What `node` adds to scores: of its two arguments the one that is of another shape, or no product."""
    added = inputs_of(node)
    if name_of(node) not in ADDS or len(added) != 2:
        return None
    odd = [each for each in added if shape_of(each) != shape_of(node) or not _is_scores(each)]
    return odd[0] if len(odd) == 1 else None


def _hides(node: fx.Node) -> bool:
    """Whether `node` gives some scores another value, whatever they are."""
    return name_of(node) == "masked_fill"


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
    return inputs_of(node)[:1] if is_layout(node) or _hides(node) else inputs_of(node)


def _is_closed(made: WrittenOut) -> bool:
    """Whether nothing else reads what is computed on the way."""
    inside = set(made.nodes)
    return all(user in inside for node in made.nodes[:-1] for user in readers_of(node))


def _fits(made: WrittenOut) -> bool:
    """Whether the factors are laid out as a core takes them, and are arguments of nodes."""
    if not all(any(made.readers(factor)) for factor in (made.query, made.key, made.value)):
        return False
    query, key, value = (shape_of(node) for node in (made.query, made.key, made.value))
    scores = (*query[:-1], key[-2])
    if not _fits_scores(made.hidden, scores) or isinstance(made.fill, fx.Node):
        return False
    same = len(query) in (3, 4) and key == value and query[:-2] == key[:-2] and query[-1] == key[-1]
    return same and shape_of(made.nodes[-1]) == query and _fits_scores(made.bias, scores)


def _fits_scores(bias: fx.Node | None, scores: tuple[int, ...]) -> bool:
    """Whether there is no bias, or one that is expanded to the `scores` (B, H, N, M)."""
    if bias is None:
        return True
    pairs = zip(reversed(shape_of(bias)), reversed(scores), strict=False)
    return 0 < len(shape_of(bias)) <= len(scores) and all(size in (1, full) for size, full in pairs)


def _computes_attention(made: WrittenOut, module_of: ModuleOf) -> bool:
    """Whether the nodes give softmax(q k^T / sqrt(K)) v: at sizes of which no two are equal, or as equal as traced.

    Samples and heads that are counted by numbers of the forward's own have to be as many as these.
    """
    *heads, queries, _ = shape_of(made.query)
    keys = shape_of(made.key)[-2]
    small = {size: size for size in heads}
    small.setdefault(queries, QUERIES)
    small.setdefault(keys, KEYS)
    few = (*heads, small[queries], small[keys])
    tried = [(SCORES, {}), (few, small), ((*heads, queries, keys), {})]
    return any(
        _computes_at(made, module_of, each, sizes)
        for sizes, each in tried
        if len(sizes) == len(heads) + 2 and math.prod(sizes) <= MOST_SCORES
    )


def _computes_at(made: WrittenOut, module_of: ModuleOf, small: Mapping[int, int], sizes: tuple[int, ...]) -> bool:
    """Whether they do at `sizes`, those of the scores, which make those of the trace `small`."""
    generator = torch.Generator().manual_seed(0)
    *heads, queries, keys = sizes
    query, key, value = (
        # Large scores, so that a wrong scale shows.
        _random(node, (*heads, tokens), generator) * (2 if node is not made.value else 1)
        for node, tokens in ((made.query, queries), (made.key, keys), (made.value, keys))
    )
    values: dict[fx.Node, Any] = {made.query: query, made.key: key, made.value: value}
    mask = torch.zeros(sizes, dtype=torch.float64, device="cpu")
    if made.bias is not None:
        values[made.bias] = _drawn_like(made.bias, sizes, generator).to(made.bias.meta["val"].dtype)
        mask += values[made.bias]
    if made.hidden is not None:
        hidden = values[made.hidden] = _drawn_like(made.hidden, sizes, generator) > 0
        hidden[..., :1] &= math.isfinite(made.fill)  # where no key is left, it gives NaN
        mask = mask.masked_fill(hidden, made.fill)
    try:
        result, precise = _run(made, values, module_of, small)
    except Exception:  # whatever these nodes do at other sizes, it is not what is looked for
        return False
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), mask)
    if result.shape != expected.shape:
        return False
    return torch.allclose(result.double(), expected, rtol=0, atol=1e-4 if precise else 0.1)


def _drawn_like(node: fx.Node, scores: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers that are expanded to `scores` as `node` is to those of the trace."""
    pairs = zip(reversed(shape_of(node)), reversed(scores), strict=False)
    shape = [1 if size == 1 else full for size, full in pairs]
    return torch.randn(shape[::-1], device="cpu", generator=generator)


def _random(node: fx.Node, sizes: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers in the dtype and with the features that `node` has."""
    drawn = torch.randn(*sizes, shape_of(node)[-1], device="cpu", generator=generator)
    dtype: torch.dtype = node.meta["val"].dtype
    return drawn.to(dtype)


def _run(
    made: WrittenOut, values: dict[fx.Node, Any], module_of: ModuleOf, small: Mapping[int, int]
) -> tuple[Tensor, bool]:
    """The result, and whether single precision or better was kept all the way."""
    precise = True
    for node in made.nodes:
        args = fx.node.map_arg(node.args, lambda n: _value(n, values, small))
        kwargs = fx.node.map_arg(node.kwargs, lambda n: _value(n, values, small))
        if node.op == "call_module":
            result = _without_dropout(module_of(node))(*args, **kwargs)
        else:
            result = evaluated(node, args, kwargs)
        values[node] = result
        precise = precise and torch.finfo(result.dtype).bits >= 32
    return values[made.nodes[-1]], precise


def _value(node: fx.Node, values: dict[fx.Node, Any], small: Mapping[int, int]) -> Any:
    """The tensor that is computed, or a number that is: of sizes, as the tensors that have them would have others."""
    if node in values:
        return values[node]
    if tensors(node):
        raise TypeError(f"{node} is another tensor")
    number = node.meta.get("val")
    values[node] = small.get(number, number) if isinstance(number, int) else number
    if node.op in ("call_function", "call_method"):
        args = fx.node.map_arg(node.args, lambda n: _sized(n, values, small))
        values[node] = evaluated(node, args, fx.node.map_arg(node.kwargs, lambda n: _sized(n, values, small)))
    return values[node]


def _sized(node: fx.Node, values: dict[fx.Node, Any], small: Mapping[int, int]) -> Any:
    """As `_value`; of a tensor that is not computed here, one with the sizes that it would have."""
    traced = node.meta.get("val")
    if node in values or not isinstance(traced, Tensor):
        return _value(node, values, small)
    *sizes, features = traced.shape
    return torch.empty(*(small.get(size, size) for size in sizes), features, dtype=traced.dtype, device="cpu")


def _without_dropout(module: nn.Module) -> nn.Module:
    """Dropout does not change what attention is; what learns cannot be tried on random numbers."""
    if next(module.parameters(), None) is not None:
        raise TypeError("a module that learns")
    return nn.Identity() if isinstance(module, nn.Dropout) else module
