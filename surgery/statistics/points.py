"""What is looked at in a traced model: attention at its cores, operators, residual additions, blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from surgery.analysis.arguments import bound_arguments
from surgery.analysis.roles.flow import ScopedNode
from surgery.analysis.roles.operator import mixes
from surgery.analysis.roles.primitives import inputs_of, is_module, name_of, shape_of
from surgery.analysis.written_out import Layout as WrittenLayout
from surgery.graph import ModelGraph, Operator
from surgery.recording.paths import child_path, is_inside
from surgery.statistics.activations import contribution, moments, similarity
from surgery.statistics.attention import Filled, Layout, attention_figures
from surgery.statistics.instrument import Point, See
from surgery.statistics.layouts import Layouts
from surgery.statistics.multihead import mask_of, queries_and_keys, why_unseen
from surgery.statistics.sums import Sums

SOFTMAX_ATTENTION = "scaled_dot_product_attention"
BLOCK = "block "
"""Begins the names, in the sums, of blocks: a block may be an operator as well."""


class Points:
    """Makes the points that add to `sums`.

    Args:
        graph: the traced model.
        arguments: of its forward when it was traced.
        sums: where figures go, by the paths of the operators, and of the blocks after BLOCK.
        window: k of the locality; by default an eighth of the tokens.
    """

    def __init__(self, graph: ModelGraph, arguments: Mapping[str, Any], sums: Sums, window: int | None) -> None:
        self._graph, self._sums, self._window = graph, sums, window
        self._flow = graph.structure.flow
        self._layouts = Layouts(self._flow, arguments)
        self._operators = [o for o in graph.operators() if mixes(o.role)]
        self._owners = _Owners(self._operators)

    def __iter__(self) -> Iterator[Point]:
        """All of them."""
        for operator in self._operators:
            yield from self._around(operator)
        for place in self._flow.order:
            if name_of(place[1]) == SOFTMAX_ATTENTION:
                yield from self._called(place)
            elif is_module(place[1], (nn.MultiheadAttention,)):
                yield from self._multihead(place)
        for scope in self._graph.scopes:
            yield from self._written_out(scope)
        for path in self._graph.layers:
            yield from self._block(path)
        yield from self._residuals()

    def _around(self, operator: Operator) -> Iterator[Point]:
        """What an operator is given and gives."""
        calls = [] if operator.nodes else self._flow.callers[operator.path]
        for scope, call in calls:
            yield Point(scope, call, self._moments(operator.path, "in_"), (inputs_of(call)[0],), before=True)
            yield Point(scope, call, self._moments(operator.path, "out_"), (call,))
        if operator.nodes:
            entering, reader, leaving = _ends(self._graph, operator)
            yield Point(operator.scope, reader, self._moments(operator.path, "in_"), (entering,), before=True)
            yield Point(operator.scope, leaving, self._moments(operator.path, "out_"), (leaving,))

    def _called(self, place: ScopedNode) -> Iterator[Point]:
        """Attention in one call."""
        scope, node = place
        owner = self._owners.of(self._flow, place)
        query = node.args[0] if node.args else node.kwargs["query"]
        if owner is not None and isinstance(query, fx.Node):
            see = self._attention(owner, self._layouts.of((scope, query), shape_of(query)[-2]))
            yield Point(scope, node, see, node.args, dict(node.kwargs), before=True)

    def _multihead(self, place: ScopedNode) -> Iterator[Point]:
        """Attention inside torch's own module, whose queries and keys are computed once more."""
        scope, node = place
        path = child_path(scope, node)
        module = self._graph.model.get_submodule(path)
        assert isinstance(module, nn.MultiheadAttention)
        if why_unseen(module) is None:
            bound = bound_arguments(self._graph.scopes, scope, (node,))
            tokens = shape_of(bound["query"])[1 if module.batch_first else 0]
            figures = self._attention(path, self._layouts.of((scope, bound["query"]), tokens))
            given = tuple(bound[name] for name in ("query", "key", "key_padding_mask", "attn_mask"))
            yield Point(scope, node, _inside(module, figures), given, before=True)

    def _written_out(self, scope: str) -> Iterator[Point]:
        """Attention that the forward of a scope writes out."""
        for made in self._graph.written_out(scope):
            *_, result = made.nodes
            owner = self._owners.of(self._flow, (scope, result))
            if owner is not None:
                layout = self._layouts.of((scope, made.query), made.shapes[0][-2])
                factors = (made.query, made.key, made.value, made.bias)
                hiding = made.hiding
                filled = {"seen" if hiding.tells_seen else "hidden": hiding.mask, "fill": hiding.fill} if hiding else {}
                see = _in_order(self._attention(owner, layout), made.layout)
                yield Point(scope, result, see, factors, filled, before=True)

    def _residuals(self) -> Iterator[Point]:
        """For each operator, the next addition to the stream that it takes part in."""
        residuals = self._graph.structure.residuals
        for operator in self._operators:
            around = [
                (len(residual.sublayer), place)
                for place, residual in residuals.items()
                if any(self._is_part(each, operator) for each in residual.sublayer)
            ]
            if around:
                _, (scope, node) = min(around, key=lambda each: each[0])
                residual = residuals[scope, node]
                see = self._added(operator.path)
                yield Point(scope, node, see, (residual.stream, residual.branch), before=True)

    def _block(self, path: str) -> Iterator[Point]:
        """What a block makes of its streams."""
        streams = self._graph.streams(path) or ()
        for scope, call in self._flow.callers[path] if streams else ():
            bound = bound_arguments(self._graph.scopes, scope, (call,))
            entering = tuple(bound[stream.argument] for stream in streams)
            change = _Change(self._sums, BLOCK + path, [stream.items for stream in streams])
            yield Point(scope, call, change.before, entering, before=True)
            yield Point(scope, call, change.after, (call,))

    @staticmethod
    def _is_part(place: ScopedNode, operator: Operator) -> bool:
        path, node = place
        if operator.nodes:
            return path == operator.scope and node.name in operator.nodes
        called = child_path(path, node) if node.op == "call_module" else path
        return is_inside(called, operator.path)

    # -- what looks ------------------------------------------------------------------------------------------------

    def _moments(self, path: str, side: str) -> See:
        def see(value: Any) -> None:
            tensor = next(leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
            for name, number in moments(tensor).items():
                self._sums.add(path, side + name, number, tensor.numel())

        return see

    def _attention(self, path: str, layout: Layout | None) -> See:
        def see(
            query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
            is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False, filled: Filled | None = None,
        ) -> None:  # fmt: skip
            del value, dropout_p, enable_gqa
            found = attention_figures(
                query, key, attn_mask,
                filled=filled, causal=is_causal, scale=scale, window=self._window, layout=layout,
            )  # fmt: skip
            for name, number in found.items():
                self._sums.add(path, name, number, query.shape[:-2].numel())

        return see

    def _added(self, path: str) -> See:
        def see(stream: Tensor, branch: Tensor) -> None:
            self._sums.add(path, "contribution", contribution([stream], [branch]), len(stream))

        return see


class _Change:
    """Compares the streams before and after a block; they are copied, as it may write into them."""

    def __init__(self, sums: Sums, path: str, items: Sequence[tuple[int | str, ...]]) -> None:
        self._sums, self._path, self._items = sums, path, items
        self._entered: list[Tensor] = []

    def before(self, *streams: Tensor) -> None:
        """What enters."""
        self._entered = [stream.clone() for stream in streams]

    def after(self, result: Any) -> None:
        """What the block gives."""
        leaving, entered, self._entered = [_item(result, keys) for keys in self._items], self._entered, []
        added = [after - before for after, before in zip(leaving, entered, strict=True)]
        self._sums.add(self._path, "contribution", contribution(entered, added), len(added[0]))
        self._sums.add(self._path, "similarity", similarity(entered, leaving), len(added[0]))


class _Owners:
    """Finds the operator that a node belongs to."""

    def __init__(self, operators: list[Operator]) -> None:
        self._modules = {operator.path for operator in operators if not operator.nodes}
        self._nodes = {(o.scope, name): o.path for o in operators for name in o.nodes}

    def of(self, flow: Any, place: ScopedNode) -> str | None:
        """The path of the smallest operator around `place`."""
        while True:
            path, node = place
            found = self._nodes.get((path, node.name)) or (path if path in self._modules else None)
            if found is not None or not path:
                return found
            place = flow.callers[path][0]


def _ends(graph: ModelGraph, operator: Operator) -> tuple[fx.Node, fx.Node, fx.Node]:
    """What enters an operator that is made of nodes first, what of it reads that, and what leaves it last."""
    nodes = [graph.node(operator.scope, name) for name in operator.nodes]
    inside = set(nodes)
    entering = ((s, node) for node in nodes for s in inputs_of(node) if s not in inside and s.op != "get_attr")
    leaving = [node for node in nodes if set(node.users) - inside and shape_of(node)]
    return *next(entering), leaving[-1]


def _in_order(figures: See, layout: WrittenLayout) -> See:
    """What looks at factors, (B, H, N, K) if laid out as such, under a bias and what hides scores."""

    def see(
        query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None,
        hidden: Tensor | None = None, seen: Tensor | None = None, fill: float = 0.0,
    ) -> None:  # fmt: skip
        swaps = zip((query, key, value), layout, strict=False)
        factors = (x if swap is None else x.transpose(*swap) for x, swap in swaps)
        hidden = hidden if seen is None else ~seen
        figures(*factors, bias, filled=None if hidden is None else (hidden, fill))

    return see


def _inside(module: nn.MultiheadAttention, figures: See) -> See:
    """What looks at the queries and keys that `module` makes."""

    def see(query: Tensor, key: Tensor, padding: Tensor | None, mask: Tensor | None) -> None:
        figures(*queries_and_keys(module, query, key), None, mask_of(module, padding, mask))

    return see


def _item(result: Any, keys: tuple[int | str, ...]) -> Any:
    for key in keys:
        result = result[key]
    return result
