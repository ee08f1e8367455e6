"""Change the MLP of a block: its expansion ratio, its activation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import fx, nn

from surgery.errors import RewriteError
from surgery.graph.roles.flow import is_inside
from surgery.graph.roles.primitives import is_activation, name_of
from surgery.operators import MLP, Activation, AnyOperator, MLPDims, OperatorConfig, Policy, linears_of
from surgery.rewrite.pattern import node
from surgery.rewrite.replacement import Replacement
from surgery.rewrite.rule import Rule
from surgery.rewrite.selection import Selection, all_layers
from surgery.rewrite.site import Site


class ReplaceMLP(Rule):
    """Puts `operator` in the place of an MLP, as the MLP rows of the grafting paper do (Table 4).

    An MLP that is called with more than the tokens, that is gated, or that is no module of its own is skipped, with the
    reason in the plan.
    """

    operator: AnyOperator
    inherit: Policy = "projections"
    loss: Literal["l1", "l2", "huber"] = "l2"

    def check(self, site: Site) -> str | None:
        """Refuse what is not linear, activation, linear on one stream of tokens."""
        if not site.first.is_module:
            return "is no module of its own but made of nodes"
        args, kwargs = site.arguments
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if len(inputs) != 1:
            return f"is called with {len(inputs)} tensors; {self.operator.kind} takes the tokens only"
        try:
            mlp_dims_of(site)
        except RewriteError as error:
            return str(error)
        return None

    def replacement(self, site: Site) -> Replacement:
        """The operator at the width, with the biases and the activation of the MLP at `site`."""
        return Replacement(operator=self.operator, dims=mlp_dims_of(site), inherit=self.inherit)


def replace_mlp(
    operator: OperatorConfig, *, layers: Selection | None = None, inherit: Policy = "projections"
) -> ReplaceMLP:
    """The rule that replaces the MLP by `operator` in the selected layers (all, if none are given).

    Args:
        operator: config of the new operator, e.g. `MLP(ratio=3)`.
        layers: `every(2)`, `indices(1, 3)` and the like.
        inherit: "projections" takes over neurons; "random" starts afresh.
    """
    return ReplaceMLP(pattern=node("mlp"), layers=layers or all_layers(), operator=operator, inherit=inherit)


def mlp_ratio(ratio: float, *, layers: Selection | None = None, inherit: Policy = "projections") -> ReplaceMLP:
    """The rule that changes the expansion ratio of the MLP: a larger one preserves the function, see `MLP`."""
    return replace_mlp(MLP(ratio=ratio), layers=layers, inherit=inherit)


def mlp_dims_of(site: Site) -> MLPDims:
    """Sizes, biases and activation of the MLP at `site`.

    Raises:
        RewriteError: it is not two linear maps with a known activation between them.
    """
    up, down = linears_of(site.module)
    return MLPDims(
        dim=up.in_features,
        out_dim=down.out_features,
        up_bias=up.bias is not None,
        down_bias=down.bias is not None,
        activation=_activation(site),
    )


def _activation(site: Site) -> Activation:
    scopes = [scope for path, scope in site.graph.scopes.items() if is_inside(path, site.path)]
    found = [_named(site, node) for scope in scopes for node in scope.graph.nodes if is_activation(node)]
    known: dict[str, Activation] = {"gelu": "gelu", "gelu tanh": "gelu_tanh", "silu": "silu", "relu": "relu"}
    if len(found) != 1 or found[0] not in known:
        raise RewriteError(f"{site.operator.module_class} has the activation {' and '.join(found) or 'of none known'}")
    return known[found[0]]


def _named(site: Site, node: fx.Node) -> str:
    """The activation that `node` applies, with the approximation of a GELU."""
    if node.op != "call_module":
        approximate = node.kwargs.get("approximate", "none")
        return name_of(node) + ("" if approximate == "none" else f" {approximate}")
    cls = node.meta["module_class"]
    owner = next(p for p, s in site.graph.scopes.items() if node in s.graph.nodes and is_inside(p, site.path))
    module = site.graph.model.get_submodule(f"{owner}.{node.target}")
    is_tanh = isinstance(module, nn.GELU) and module.approximate == "tanh"
    return str(cls.__name__).lower() + (" tanh" if is_tanh else "")
