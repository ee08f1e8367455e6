"""`Operator`: a part of a model that has a role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import fx, nn

from surgery.analysis.roles.layers import layer_of
from surgery.analysis.roles.primitives import inputs_of, is_linear, shape_of
from surgery.recording.paths import module_part, opened
from surgery.recording.recording import Scope

Role = Literal[
    "self_attention",
    "cross_attention",
    "joint_attention",
    "sequence_mixer",
    "mlp",
    "norm",
    "modulation",
    "residual",
    "embedding",
]


@dataclass(frozen=True)
class Operator:
    """An operator of the model: a module, or some of the nodes of a scope's graph.

    Attributes:
        path: of its module in the model; of a subgraph, the path of its scope, a colon, and the name of its first node.
        role: what it does; "block" or "node" for what has no role, but was matched by a pattern.
        module_class: name of the module's class; "" of a subgraph.
        layer: number of the block that it stands in, counted in execution order; None outside of blocks.
        in_shape, out_shape: of its first tensor argument and of its first result, on the traced inputs.
        params: number of parameters.
        flops: floating point operations of one call on the traced inputs; a multiply-add counts as two.
        flops_mixing: those that are not spent in learned linear maps; of an MLP all, as features are mixed by these.
        nodes: names of a subgraph's fx nodes in the graph of its scope; empty for a module.
    """

    path: str
    role: Role | Literal["block", "node"]
    module_class: str
    layer: int | None
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    params: int
    flops: int
    flops_mixing: int
    nodes: tuple[str, ...] = ()

    @property
    def scope(self) -> str:
        """The path of the module that it is, or that its nodes stand in."""
        return module_part(self.path)


@dataclass(frozen=True)
class Recognised:
    """A role, and what has it: the module at `path`, or `nodes` of the graph of the scope there."""

    role: Role
    path: str
    nodes: tuple[fx.Node, ...] = ()


def mixes(role: str) -> bool:
    """Whether what has this role mixes tokens or features, which is what `flops_mixing` counts."""
    return role in ("self_attention", "cross_attention", "joint_attention", "sequence_mixer", "mlp")


def calls(scopes: Mapping[str, Scope], path: str) -> Iterator[tuple[str, fx.Node]]:
    """Every module call in and below the scope at `path`: the scope that it stands in, and its node."""
    for node in scopes[path].graph.find_nodes(op="call_module"):
        yield path, node
        inner = opened(scopes, path, node)
        if inner is not None:
            yield from calls(scopes, inner)


def module_operator(path: str, node: fx.Node, role: Role, layers: Mapping[str, int], linear_flops: int) -> Operator:
    """The module at `path`, which `node` calls and in which linear maps take `linear_flops`, as an operator."""
    flops = node.meta["flops"]
    return Operator(
        path=path,
        role=role,
        module_class=node.meta["module_class"].__name__,
        layer=layer_of(path, layers),
        in_shape=next((shape_of(source) for source in inputs_of(node)), ()),
        out_shape=shape_of(node),
        params=node.meta["params"],
        flops=flops,
        flops_mixing=node.meta.get("flops_mixing", flops if role == "mlp" else flops - linear_flops),
    )


def subgraph_operator(
    path: str, nodes: tuple[fx.Node, ...], name: str, role: Role, layers: Mapping[str, int]
) -> Operator:
    """`nodes`, in execution order, of the graph of the scope at `path`, called by the `name` of one, as an operator."""
    inside = set(nodes)
    entering = [source for node in nodes for source in inputs_of(node) if source not in inside]
    computed = [source for source in entering if source.op != "get_attr"]
    leaving = [node for node in nodes if set(node.users) - inside and shape_of(node)]
    mixing = [node for node in nodes if role == "mlp" or not is_linear(node)]
    return Operator(
        path=f"{path}:{name}",
        role=role,
        module_class="",
        layer=layer_of(path, layers),
        in_shape=next((shape_of(source) for source in computed), ()),
        out_shape=next((shape_of(node) for node in reversed(leaving)), ()),
        params=sum(params_of(node) for node in nodes),
        flops=sum(node.meta.get("flops", 0) for node in nodes),
        flops_mixing=sum(node.meta.get("flops", 0) for node in mixing),
        nodes=tuple(node.name for node in nodes),
    )


def params_of(node: fx.Node) -> int:
    """How many parameters `node` is, or the module that it calls has."""
    value = node.meta.get("val")
    return value.numel() if isinstance(value, nn.Parameter) else int(node.meta.get("params", 0))
