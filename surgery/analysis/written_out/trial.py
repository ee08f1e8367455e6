"""Whether nodes compute softmax(q k^T / sqrt(K) + bias) v, tried with random numbers.

Shape legend: B batch, H heads, N queries, M keys, K features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from surgery.analysis.roles.primitives import shape_of, tensors
from surgery.analysis.small_run import evaluated
from surgery.analysis.written_out.attention import Hiding, Swapped, WrittenOut

QUERIES, KEYS = 3, 5
SCORES = (1, 2, QUERIES, KEYS)
OTHERS = (3, 2, 5, 4)
"""What takes the place of each traced size, in the order in which different ones are met."""
MOST_SCORES = 1 << 16
FEWEST_KEYS = 2
"""Of one key the weight is 1, whatever its score."""
ROUNDINGS = 2
"""By how much more than the formula itself, in half precision, nodes may differ from it on average."""

ModuleOf = Callable[[fx.Node], nn.Module]


def computes_attention(made: WrittenOut, module_of: ModuleOf) -> bool:
    """Whether the nodes give softmax(q k^T / sqrt(K)) v at every size that they can be run at, one at least.

    These are sizes of which no two are equal, others that are equal where the traced ones are, and the traced ones
    themselves, if they are not too large: samples and heads that are counted by numbers of the forward's own have to be
    as many as traced.
    """
    query, key, *_ = made.shapes
    *heads, queries, _ = query
    keys = key[-2]
    small = {size: size for size in heads}
    small.setdefault(queries, QUERIES)
    small.setdefault(keys, KEYS)
    few = (*heads, small[queries], small[keys])
    traced = (*heads, queries, keys)
    alike = dict(zip(dict.fromkeys(traced), OTHERS, strict=False))  # those that are equal stay so
    of_traced = (SCORES, _unambiguous(traced, SCORES)), (tuple(alike[size] for size in traced), alike)
    tried = [*of_traced, (few, small), (traced, {})]
    results = [
        _computes_at(made, module_of, each, sizes, hide)
        for sizes, each in tried
        if len(sizes) == len(heads) + 2 and math.prod(sizes) <= MOST_SCORES and sizes[-1] >= FEWEST_KEYS
        for hide in ((False, True) if made.hiding else (False,))
    ]
    return True in results and False not in results


def _unambiguous(traced: tuple[int, ...], sizes: tuple[int, ...]) -> dict[int, int]:
    """By the traced sizes, those that take their places, if it is one for all that were equal."""
    pairs = set(zip(traced, sizes, strict=False))
    return {old: new for old, new in pairs if sum(old == other for other, _ in pairs) == 1}


def _computes_at(
    made: WrittenOut, module_of: ModuleOf, small: Mapping[int, int], sizes: tuple[int, ...], hide: bool
) -> bool | None:
    """Whether they do at `sizes`, those of the scores, which make those of the trace `small`, if some keys are hidden.

    What hides keys is tried without hiding any too: of a single key that is left the scale would not show. None if they
    cannot be run at such sizes, as they count by numbers of their own.
    """
    generator = torch.Generator().manual_seed(0)
    *heads, queries, keys = sizes
    drawn = _drawn_factors(made, [(*heads, tokens) for tokens in (queries, keys, keys)], generator)
    laid_out = [_swapped(x, swap).contiguous() for x, swap in zip(drawn, made.layout[:3], strict=True)]
    values: dict[fx.Node, Any] = dict(zip((made.query, made.key, made.value), laid_out, strict=True))
    bias = hidden = None
    if made.bias is not None:
        bias = values[made.bias] = _drawn_like(made.bias, sizes, generator).to(made.bias.meta["val"].dtype)
    if made.hiding is not None:
        hidden = (_drawn_like(made.hiding.mask, sizes, generator) > 0) & hide
        hidden[..., :1] &= math.isfinite(made.hiding.fill)  # where no key is left, it gives NaN
        values |= _hiding(made.hiding, hidden)
    try:
        result, lowest = _run(made, values, module_of, small)
    except Exception:  # whatever these nodes do at other sizes, it is not what is looked for
        return None

    def attention(dtype: torch.dtype) -> Tensor:
        """Softmax attention as it is defined, in this precision."""
        query, key, value = (x.to(dtype) for x in drawn)
        scores = query * query.shape[-1] ** -0.5 @ key.mT + (0 if bias is None else bias.to(dtype))
        if hidden is not None and made.hiding is not None:
            scores = scores.masked_fill(hidden, made.hiding.fill)
        mixed: Tensor = scores.softmax(-1) @ value
        return mixed.double()

    expected = attention(torch.float64)
    found = _swapped(result, made.layout.result).double()
    if found.shape != expected.shape:
        return False
    if torch.finfo(lowest).bits >= 32:
        return torch.allclose(found, expected, rtol=0, atol=1e-4)
    error, rounding = ((x - expected).abs().mean() for x in (found, attention(lowest)))
    return bool(error <= ROUNDINGS * rounding)


def _hiding(hiding: Hiding, hidden: Tensor) -> dict[fx.Node, Any]:
    """What the nodes that hide are given."""
    values: dict[fx.Node, Any] = {hiding.mask: hidden ^ hiding.tells_seen}
    if isinstance(hiding.given, fx.Node) and not hiding.made:
        values[hiding.given] = torch.tensor(hiding.fill, dtype=hiding.given.meta["val"].dtype)
    return values


def _drawn_like(node: fx.Node, scores: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers that are expanded to `scores` as `node` is to those of the trace."""
    pairs = zip(reversed(shape_of(node)), reversed(scores), strict=False)
    shape = [1 if size == 1 else full for size, full in pairs]
    return torch.randn(shape[::-1], device="cpu", generator=generator)


def _drawn_factors(
    made: WrittenOut, sizes: list[tuple[int, ...]], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values, (B, H, N, K), of the dtypes and features that they have."""
    nodes = (made.query, made.key, made.value)
    features = (shape[-1] for shape in made.shapes)
    query, key, value = (
        torch.randn(*each, width, device="cpu", generator=generator).to(node.meta["val"].dtype)
        for node, each, width in zip(nodes, sizes, features, strict=False)
    )
    return query * 2, key * 2, value  # large scores, so that a wrong scale shows


def _swapped(x: Tensor, swap: Swapped) -> Tensor:
    return x if swap is None else x.transpose(*swap)


def _run(
    made: WrittenOut, values: dict[fx.Node, Any], module_of: ModuleOf, small: Mapping[int, int]
) -> tuple[Tensor, torch.dtype]:
    """The result, and the lowest precision on the way."""
    lowest = torch.float64
    for node in made.nodes:
        args = fx.node.map_arg(node.args, lambda n: _value(n, values, small))
        kwargs = fx.node.map_arg(node.kwargs, lambda n: _value(n, values, small))
        if node.op == "call_module":
            result = _without_dropout(module_of(node))(*args, **kwargs)
        else:
            result = evaluated(node, args, kwargs)
        values[node] = result
        lowest = min(lowest, result.dtype, key=lambda dtype: torch.finfo(dtype).bits)
    return values[made.nodes[-1]], lowest


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
