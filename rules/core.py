"""The core of an attention: where a forward mixes values by queries and keys, in one call or written out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from surgery.analysis.roles.primitives import is_linear, past_splits
from surgery.analysis.written_out import PLAIN_LAYOUT, Layout, Place, WrittenOut
from surgery.graph.view import Key
from surgery.rewriting.graphs.anchors import turns
from surgery.rewriting.site import Item, Site, traced
from surgery.rewriting.values import transposed

SOFTMAX_ATTENTION = "scaled_dot_product_attention"
PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
FACTORS = PARAMETERS[:3]
HIDING = ("hidden", "seen", "fill")
"""Of what is written out: where a key is hidden from a query, or seen by it, and the score that it gets where hidden."""
GROUPED = "enable_gqa"
PLAIN = {"dropout_p": (None, 0, 0.0), "is_causal": (None, False), GROUPED: (None, False, True)}


@dataclass(frozen=True)
class SoftmaxAttention:
    """Where one is computed.

    Attributes:
        items: what computes it, by name; "attention" is what gives the result.
        given: for each of PARAMETERS and HIDING that it is given, the name of an item, and of that one's argument.
        layout: of its factors and its result.
    """

    items: dict[str, Item]
    given: dict[str, tuple[str, str]]
    layout: Layout = PLAIN_LAYOUT

    @property
    def node(self) -> fx.Node:
        """The node that gives the result."""
        return self.items["attention"].node

    @property
    def is_called(self) -> bool:
        """Whether it is one call, and not written out."""
        return len(self.items) == 1

    def argument(self, parameter: str) -> Any:
        """What it is called with, a node or a constant; None if it is not."""
        item, name = self.given.get(parameter, ("attention", ""))
        return self.items[item].bound.get(name)

    def traced(self, parameter: str) -> Any:
        """What that was when the model was traced, with the axes of a factor in their order."""
        found, swap = traced(self.argument(parameter)), getattr(self.layout, parameter, None)
        return found if swap is None else found.transpose(*swap)

    def fixed(self, parameter: str) -> Tensor | None:
        """What that is at the traced sizes whatever the model's inputs; None if they have a say in it."""
        item, _ = self.given.get(parameter, ("attention", ""))
        node = self.argument(parameter)
        return self.items[item].graph.fixed(self.items[item].scope, node) if isinstance(node, fx.Node) else None

    def values(self) -> dict[str, str]:
        """What a core is called with in its place, as a rewiring writes it; with a mask that is None as traced too."""
        item, mask = self.given.get("attn_mask", ("attention", ""))
        names = dict.fromkeys([*self._for_core(), *(["attn_mask"] if mask in self.items[item].bound else [])])
        return {name: self._in_order("{}({})".format(*self.given[name]), name) for name in names}

    def instead(self, value: str) -> str:
        """What takes the place of its result, where `value` is that of a core."""
        return self._in_order(value, "result")

    def _in_order(self, value: str, name: str) -> str:
        """A value with its axes in the order (B, H, N, K), or from that in the order that it has here."""
        return transposed(value, getattr(self.layout, name, None))

    def traced_values(self) -> dict[str, Any]:
        """What that was when the model was traced."""
        return {name: self.traced(name) for name in self._for_core()}

    def _for_core(self) -> list[str]:
        names = (*PARAMETERS[:4], *HIDING, *([GROUPED] if self.argument(GROUPED) else []))
        return [name for name in names if self.argument(name) is not None]

    @property
    def is_masked(self) -> bool:
        """Whether it has a mask, in either way."""
        return any(self.argument(name) is not None for name in ("attn_mask", *HIDING))

    def special(self, causal: bool = False) -> str | None:
        """What makes it more than softmax(q k^T / sqrt(K)) v and a mask: dropout, a scale of its own, or a causal mask
        unless what takes its place is `causal`."""
        plain_values = PLAIN | {"is_causal": (True, *PLAIN["is_causal"])} if causal else PLAIN
        odd = (name for name, plain in plain_values.items() if self.argument(name) not in plain)
        name = next(odd, None) or ("scale" if self._scales() else None)
        return name and f"{name}={self.argument(name)!r}"

    def _scales(self) -> bool:
        """Whether it is given another scale than 1 / sqrt(K), or one that is computed."""
        scale = self.argument("scale")
        if scale is None:
            return False
        return not isinstance(scale, int | float) or not math.isclose(scale, self.traced("query").shape[-1] ** -0.5)

    def unfit(self) -> str | None:
        """How its factors differ from (B, H, N, K) and twice (B, H, M, K), or (B H, N, K) and such, that a core takes.

        Groups of heads may share a key and a value.
        """
        shapes = {name: tuple(self.traced(name).shape) for name in FACTORS}
        query, key, value = shapes.values()
        if self.argument(GROUPED) and len(query) == len(key) == len(value) == 4 and not query[1] % key[1]:
            key, value = (shape[:1] + query[1:2] + shape[2:] if shape[1] == key[1] else shape for shape in (key, value))
        if len(query) in (3, 4) and key == value and (*query[:-2], query[-1]) == (*key[:-2], key[-1]):
            return None
        words = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        return f"its softmax attention has {words}, not (B, H, N, K) and twice (B, H, M, K)"

    def why_heads_vary(self, root: str) -> str | None:
        """That what should be heads are samples or tokens of what the scope at `root` is given; None if they are not."""
        return self._why_varies(root, 1, "heads") if self.traced("query").dim() == 4 else None

    def why_features_vary(self, root: str) -> str | None:
        """The same of what should be features."""
        return self._why_varies(root, self.traced("query").dim() - 1, "features")

    def _why_varies(self, root: str, axis: int, what: str) -> str | None:
        """That an axis of (B, H, N, K) queries grows with what the scope at `root` is given; None if it does not."""
        item, _ = self.given["query"]
        node = self.argument("query")
        first, second = self.layout.query or (axis, axis)
        own = {first: second, second: first}.get(axis, axis)
        if not self.items[item].graph.grows(root, self.items[item].scope, node, own):
            return None
        shape = tuple(node.meta["val"].shape)
        return f"its queries {shape} have samples or tokens where {what} should be, in axis {own}"

    def between(self) -> str | None:
        """What stands between the projections and it, besides layout, such as a norm or a rotary embedding."""
        for parameter in FACTORS:
            *_, node = past_splits(self.argument(parameter))
            if not is_linear(node):
                return f"{node.name} between its {parameter} and the projection"
        return None


def core_of(site: Site) -> SoftmaxAttention | None:
    """The one softmax attention in what matched; None if there is not exactly one. The turns of a loop are one."""
    found = list(_called(site)) or list(_written_out(site))
    is_one = len(found) == 1 or (found and found[0].is_called and len(turns(found[0].node)) == len(found))
    return found[0] if is_one else None


def _keys(site: Site) -> set[Key]:
    """The nodes of what matched, and of the scopes below."""
    item = site.first
    if item.is_subgraph:
        return {(item.scope, node.name) for node in item.nodes}
    return {(path, node.name) for path, node in site.graph.nodes_below(item.path)}


def _called(site: Site) -> Iterator[SoftmaxAttention]:
    view = site.graph.view
    for key in sorted(_keys(site)):
        if view.nodes[key]["function"] == SOFTMAX_ATTENTION:
            item = Item(site.graph, key)
            places = ((name, str(number)) for number, name in enumerate(PARAMETERS))
            given = {name: ("attention", place if place in item.bound else name) for name, place in places}
            yield SoftmaxAttention({"attention": item}, given)


def _written_out(site: Site) -> Iterator[SoftmaxAttention]:
    keys = _keys(site)
    for scope in sorted({scope for scope, _ in keys}):
        for made in site.graph.written_out(scope):
            if (scope, made.nodes[-1].name) in keys:
                yield _from(site, scope, made)


def _from(site: Site, scope: str, made: WrittenOut) -> SoftmaxAttention:
    *steps, result = made.nodes
    names = {result: "attention"} | {node: f"step_{number}" for number, node in enumerate(steps, 1)}
    factors = {"query": made.query, "key": made.key, "value": made.value}
    if made.bias is not None:
        factors["attn_mask"] = made.bias
    readers = {parameter: next(made.readers(factor)) for parameter, factor in factors.items()}
    given = {parameter: (names[node], argument) for parameter, (node, argument) in readers.items()}
    if (hiding := made.hiding) is not None:
        places = {"seen" if hiding.tells_seen else "hidden": hiding.mask_at}
        if not hiding.made:  # else minus infinity, which a core takes by itself
            places["fill"] = hiding.fill_at
        given |= {name: (names[hiding.node], _written(hiding.node, place)) for name, place in places.items()}
    items = {name: Item(site.graph, (scope, node.name)) for node, name in names.items()}
    return SoftmaxAttention(items, given, made.layout)


def _written(node: fx.Node, place: Place) -> str:
    """How `node` is given the argument at `place`: by name, or by position."""
    position, name = place
    return name if name in node.kwargs else str(position)
