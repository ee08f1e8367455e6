"""Roles: what an operator does, told from its graph and not from its class.

An attention is the smallest scope that encloses a scaled-dot-product call and the linear projections that feed it; which
kind it is follows from the streams that its queries and keys come from. An MLP is linear, activation, linear on tokens,
added to a residual stream. A norm divides by a root mean square.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional as F

from surgery.graph.scope import Scope
from surgery.graph.view import child_path, opened

Role = Literal["self_attention", "cross_attention", "joint_attention", "mlp", "norm"]

ATTENTION = {F.scaled_dot_product_attention}
LINEAR = {F.linear}
ACTIVATIONS = {F.gelu, F.silu, F.relu, F.relu6, F.elu, F.leaky_relu, F.softplus, F.mish, F.hardswish, torch.sigmoid,
               torch.relu, torch.tanh}  # fmt: skip
ACTIVATION_MODULES = tuple(
    cls for cls in vars(nn.modules.activation).values() if isinstance(cls, type) and cls is not nn.MultiheadAttention
)
NORM_MODULES = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
# What may stand between an MLP and the residual add: gates, dropout, layout.
PASSING = {
    "mul",
    "__mul__",
    "unsqueeze",
    "squeeze",
    "to",
    "view",
    "reshape",
    "permute",
    "transpose",
    "__getitem__",
}
ADDS = {"add", "__add__", "__radd__", "add_", "__iadd__"}


@dataclass(frozen=True)
class Operator:
    """An operator of the model.

    Attributes:
        path: of its module in the model.
        role: what it does.
        module_class: name of the module's class.
        layer: number of the block that it stands in, counted in execution order; None outside of blocks.
        in_shape, out_shape: of its first tensor argument and of its first result, on the traced inputs.
        params: number of parameters.
        flops: floating point operations of one call on the traced inputs; a multiply-add counts as two.
    """

    path: str
    role: Role
    module_class: str
    layer: int | None
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    params: int
    flops: int


def find_operators(scopes: Mapping[str, Scope]) -> list[Operator]:
    """Every operator of the traced model, in execution order, outer before inner."""
    layers = block_layers(scopes)
    found = []
    for path, node in calls(scopes, ""):
        role = _role(scopes, path, node)
        if role is not None:
            found.append(_operator(path, node, role, layers))
    return found


def calls(scopes: Mapping[str, Scope], path: str) -> Iterator[tuple[str, fx.Node]]:
    """Every module call in and below the scope at `path`: the scope that it stands in, and its node."""
    for node in scopes[path].graph.find_nodes(op="call_module"):
        yield path, node
        inner = opened(scopes, path, node)
        if inner is not None:
            yield from calls(scopes, inner)


def block_layers(scopes: Mapping[str, Scope]) -> dict[str, int]:
    """The paths of the model's blocks (items of a list that the root calls), numbered in execution order."""
    blocks = [child_path("", node) for node in scopes[""].graph.find_nodes(op="call_module")]
    repeated = dict.fromkeys(p for p in blocks if p in scopes and re.fullmatch(r".*\.\d+", p))
    return {path: number for number, path in enumerate(repeated)}


def layer_of(path: str, layers: Mapping[str, int]) -> int | None:
    """The number of the block that the module at `path` is or stands in."""
    return next((n for block, n in layers.items() if path == block or path.startswith(f"{block}.")), None)


def _operator(path: str, node: fx.Node, role: Role, layers: Mapping[str, int]) -> Operator:
    inner = child_path(path, node)
    values = [n.meta.get("val") for n in node.all_input_nodes]
    return Operator(
        path=inner,
        role=role,
        module_class=node.meta["module_class"].__name__,
        layer=layer_of(inner, layers),
        in_shape=_shape(values),
        out_shape=_shape(node.meta.get("val")),
        params=node.meta["params"],
        flops=node.meta["flops"],
    )


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of the first tensor in `value`."""
    items = value if isinstance(value, list | tuple) else [value]
    return next((tuple(item.shape) for item in items if isinstance(item, torch.Tensor)), ())


def _role(scopes: Mapping[str, Scope], path: str, node: fx.Node) -> Role | None:
    if issubclass(node.meta["module_class"], NORM_MODULES):
        return "norm"
    inner = opened(scopes, path, node)
    if inner is None:
        return None
    graph = scopes[inner].graph
    return _attention_role(graph) or _mlp_role(scopes, inner, node) or _norm_role(graph)


# -- attention -----------------------------------------------------------------------------------------------------


def _attention_role(graph: fx.Graph) -> Role | None:
    for node in graph.nodes:
        if node.target in ATTENTION:
            query, key, value = (_projections(a) for a in _query_key_value(node))
            if query and key and value:
                return _attention_kind(_streams(query), _streams(key))
    return None


def _query_key_value(node: fx.Node) -> list[fx.Node]:
    given = dict(zip(("query", "key", "value"), node.args, strict=False)) | dict(node.kwargs)
    return [a for name in ("query", "key", "value") if isinstance(a := given[name], fx.Node)]


def _attention_kind(query: set[fx.Node], key: set[fx.Node]) -> Role:
    if not query & key:
        return "cross_attention"
    return "self_attention" if len(query | key) == 1 else "joint_attention"


def _is_linear(node: fx.Node) -> bool:
    return node.target in LINEAR or issubclass(node.meta.get("module_class", object), nn.Linear)


def _projections(node: fx.Node) -> list[fx.Node]:
    """The linear calls nearest above `node`."""
    found: list[fx.Node] = []

    def visit(above: fx.Node) -> bool:
        if _is_linear(above):
            found.append(above)
        return _is_linear(above)

    _walk_up(node, visit)
    return found


def _streams(projections: list[fx.Node]) -> set[fx.Node]:
    """The token inputs `(B, N, D)` of the graph that `projections` read."""
    found: set[fx.Node] = set()

    def visit(node: fx.Node) -> bool:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor) and value.dim() >= 3:
            found.add(node)
        return False

    for projection in projections:
        _walk_up(projection, visit)
    return found


def _walk_up(start: fx.Node, stop: Callable[[fx.Node], bool]) -> None:
    """Visit `start` and what it depends on, not going above a node for which `stop` is true."""
    stack, seen = [start], {start}
    while stack:
        node = stack.pop()
        if stop(node):
            continue
        for source in node.all_input_nodes:
            if source not in seen and not _is_number(source):
                seen.add(source)
                stack.append(source)


def _is_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), int | float)


# -- MLP and norm --------------------------------------------------------------------------------------------------


def _mlp_role(scopes: Mapping[str, Scope], path: str, call: fx.Node) -> Role | None:
    kinds = list(_kinds(scopes, path))
    shape_in, shape_out = (
        _shape([n.meta.get("val") for n in call.all_input_nodes]),
        _shape(call.meta.get("val")),
    )
    is_mlp = (
        len(shape_in) >= 3
        and shape_in == shape_out
        and kinds[:1] == kinds[-1:] == ["linear"]
        and "activation" in kinds
        and 2 <= kinds.count("linear") <= 3
        and set(kinds) == {"linear", "activation"}
    )
    return "mlp" if is_mlp and _joins_residual(call) else None


def _kinds(scopes: Mapping[str, Scope], path: str) -> Iterator[str]:
    """The linear maps, activations, norms and attentions of the scope at `path` and those below, in order."""
    for node in scopes[path].graph.nodes:
        inner = opened(scopes, path, node)
        module_class = node.meta.get("module_class", object)
        if inner is not None:
            yield from _kinds(scopes, inner)
        elif _is_linear(node):
            yield "linear"
        elif node.target in ACTIVATIONS or issubclass(module_class, ACTIVATION_MODULES):
            yield "activation"
        elif node.target in ATTENTION:
            yield "attention"
        elif issubclass(module_class, NORM_MODULES):
            yield "norm"


def _joins_residual(call: fx.Node) -> bool:
    """Whether the result of `call` is added to something, perhaps gated first."""
    stack = [call]
    while stack:
        for user in stack.pop().users:
            if user.target in ADDS or user.target in (operator.add, torch.add):
                return True
            if user.target in PASSING or issubclass(user.meta.get("module_class", object), nn.Dropout):
                stack.append(user)
    return False


def _norm_role(graph: fx.Graph) -> Role | None:
    """A norm that is written out: it multiplies by a reciprocal root and holds no other operator."""
    roots = [n for n in graph.nodes if n.target in ("rsqrt", torch.rsqrt, F.rms_norm, F.layer_norm)]
    others = [n for n in graph.nodes if n.op == "call_module" or _is_linear(n) or n.target in ATTENTION]
    return "norm" if roots and not others else None
