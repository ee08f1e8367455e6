"""Change the MLP of a block: its number of neurons, its activation, or all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import fx, nn

from surgery.analysis.hidden_layer import HiddenLinear
from surgery.analysis.numbers import At
from surgery.analysis.roles.primitives import is_activation, name_of
from surgery.errors import AnalysisError, RewriteError
from surgery.graph.view import Key
from surgery.losses import LossName
from surgery.operators import (
    Activation,
    HiddenDims,
    HiddenNeurons,
    LinearSizes,
    MLPDims,
    OperatorConfig,
    Policy,
    linears_of,
)
from surgery.recording.paths import child_path, is_inside
from surgery.rewriting.pattern import Pattern
from surgery.rewriting.pattern_forms import node
from surgery.rewriting.replacement import New, Number, Replacement, Resizing
from surgery.rewriting.rule import Rule
from surgery.rewriting.selection import Selection, given_or_all
from surgery.rewriting.site import Item, Site
from surgery.rules.fields import ChannelOperator
from surgery.rules.plain import unlike_mlp


class MLPRatio(Rule):
    """Changes how many neurons an MLP has, gated or not, a module of its own or not; all else of it stays.

    Source: the expansion ratios of "Exploring Diffusion Transformer Designs via Grafting" (arXiv 2506.05340, Table 4),
    with the weights of "Net2Net" (arXiv 1511.05641).
    """

    kind: Literal["mlp_ratio"] = "mlp_ratio"
    pattern: Pattern = node("mlp")
    ratio: PositiveFloat = Field(allow_inf_nan=False)
    inherit: Policy = "projections"
    loss: LossName = "l2"

    def check(self, site: Site) -> str | None:
        """Refuse an MLP whose hidden layer cannot be told from the rest, or is not one of linear layers."""
        try:
            cutting = {scope for scope, _ in self._numbers(site)}
        except (AnalysisError, RewriteError) as error:
            return str(error)
        linears = _linears(site)
        neurons = site.graph.hidden_layer(site.first.key).neurons
        if self.inherit == "exact" and self._neurons(site) < neurons:
            return f"has {neurons} neurons, whose function {self._neurons(site)} cannot keep; use inherit='projections'"
        if hooked := next((path for path, module in _modules(site, linears) if _hooks(module)), None):
            return f"{hooked} has forward hooks, which are for a layer of its size; remove them first"
        making = [each.scope for each in linears]
        odd = next((scope for scope in cutting if not all(is_inside(each, scope) for each in making)), None)
        return odd and f"{odd} takes its neurons apart by fixed numbers, but does not make them"

    def _neurons(self, site: Site) -> int:
        return max(1, round(min(self.ratio, 1e9) * _sizes(site, _linears(site)[0]).inputs))

    def _numbers(self, site: Site) -> dict[Key, dict[At, int]]:
        """The numbers of the MLP's own forward that change, by the nodes that they stand in."""
        return site.graph.numbers_for(site.first.key, self._neurons(site))

    def place(self, site: Site) -> Site:
        """The linear maps into the hidden layer and out of it, and what takes neurons apart at fixed places."""
        items = [Item(site.graph, (each.scope, each.node.name)) for each in _linears(site)]
        cuts = {f"cut_{n}": Item(site.graph, key) for n, key in enumerate(self._numbers(site), 1)}
        return Site(site.graph, dict(zip(_names(len(items)), items, strict=True)) | cuts)

    def replacement(self, site: Site) -> Resizing:
        """Each linear map at the new number of neurons, with the weights of those that stay."""
        linears = _linears(site)
        sizes = tuple(_sizes(site, each) for each in linears)
        layer = HiddenNeurons(neurons=self._neurons(site))
        neurons, alike = site.graph.hidden_layer(site.first.key).neurons, site.graph.alike_neurons(site.first.key)
        names = _names(len(linears))

        def new(index: int) -> New:
            dims = HiddenDims(neurons=neurons, linears=sizes, index=index, alike=alike)
            return New(operator=layer, dims=dims, sources=names, inherit=self.inherit)

        changed = enumerate(self._numbers(site).values(), 1)
        numbers = {f"cut_{n}": tuple(Number(at=at, value=value) for at, value in each.items()) for n, each in changed}
        return Resizing(modules={name: new(index) for index, name in enumerate(names)}, numbers=numbers)


class ReplaceMLP(Rule):
    """Puts `operator` in the place of an MLP, as the MLP rows of the grafting paper do (Table 4).

    An MLP that is called with more than the tokens, or that is no module of its own, is skipped with the reason in the
    plan; so is a gated one, unless the operator inherits nothing.
    """

    kind: Literal["replace_mlp"] = "replace_mlp"
    operator: ChannelOperator
    inherit: Policy = "projections"
    loss: LossName = "l2"

    def check(self, site: Site) -> str | None:
        """Refuse what is no MLP on one stream of tokens, or has no neurons that the operator could take over."""
        if not site.first.is_module:
            return "is no module of its own but made of nodes"
        args, kwargs = site.arguments
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if len(inputs) != 1:
            return f"is called with {len(inputs)} tensors; {self.operator.kind} takes the tokens only"
        try:
            dims = mlp_dims_of(site)
            if self.inherit != "random":
                linears_of(site.module)
        except (AnalysisError, RewriteError) as error:
            return str(error)
        return None if self.inherit == "random" else unlike_mlp(site, dims.activation)

    def replacement(self, site: Site) -> Replacement:
        """The operator at the width, with the biases and the activation of the MLP at `site`."""
        return Replacement(operator=self.operator, dims=mlp_dims_of(site), inherit=self.inherit)


def mlp_ratio(ratio: float, *, layers: Selection | None = None, inherit: Policy = "projections") -> MLPRatio:
    """The rule that gives the MLP `ratio` neurons for each feature; more neurons preserve the function.

    Args:
        ratio: number of neurons over the width of the tokens; of a gated MLP, of the neurons after the gate.
        layers: `every(2)`, `indices(1, 3)` and the like; all, if none are given.
        inherit: "projections" keeps the neurons that contribute most; "random" starts afresh.
    """
    return MLPRatio(layers=given_or_all(layers), ratio=ratio, inherit=inherit)


def replace_mlp(
    operator: OperatorConfig, *, layers: Selection | None = None, inherit: Policy = "projections"
) -> ReplaceMLP:
    """The rule that replaces the MLP by `operator` in the selected layers (all, if none are given).

    Args:
        operator: config of the new operator, e.g. `MLP(ratio=3)`.
        layers: `every(2)`, `indices(1, 3)` and the like.
        inherit: "projections" takes over neurons; "fitted" solves then, in a run, for their output weights (without one,
            as of `surgery.rewrite`, it is "projections"); "random" starts afresh.
    """
    return ReplaceMLP(pattern=node("mlp"), layers=given_or_all(layers), operator=operator, inherit=inherit)


def _linears(site: Site) -> tuple[HiddenLinear, ...]:
    """The linear maps of the MLP at `site`, that out of the hidden layer last."""
    found = site.graph.hidden_layer(site.first.key)
    return (*found.ups, found.down)


def _names(count: int) -> tuple[str, ...]:
    return ("up", *(f"up_{number}" for number in range(2, count)), "down")


def _modules(site: Site, linears: Iterable[HiddenLinear]) -> Iterator[tuple[str, nn.Module]]:
    for linear in linears:
        path = child_path(linear.scope, linear.node)
        yield path, site.graph.model.get_submodule(path)


def _hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _sizes(site: Site, linear: HiddenLinear) -> LinearSizes:
    ((_, module),) = _modules(site, [linear])
    assert isinstance(module, nn.Linear)
    return LinearSizes(
        inputs=module.in_features,
        outputs=module.out_features,
        bias=module.bias is not None,
        parts=linear.parts,
        beside=linear.beside,
    )


def mlp_dims_of(site: Site) -> MLPDims:
    """Sizes, biases and activation of the MLP at `site`, gated or not.

    Raises:
        AnalysisError: its linear maps are not understood.
        RewriteError: it has not one known activation.
    """
    up, *_, down = (_sizes(site, each) for each in _linears(site))
    return MLPDims(
        dim=up.inputs,
        out_dim=down.outputs,
        up_bias=up.bias,
        down_bias=down.bias,
        activation=_activation(site),
    )


def _activation(site: Site) -> Activation:
    found = [_named(site, *place) for place in site.graph.nodes_below(site.path) if is_activation(place[1])]
    known: dict[str, Activation] = {"gelu": "gelu", "gelu tanh": "gelu_tanh", "silu": "silu", "relu": "relu"}
    if len(found) != 1 or found[0] not in known:
        raise RewriteError(f"{site.operator.module_class} has the activation {' and '.join(found) or 'of none known'}")
    return known[found[0]]


def _named(site: Site, scope: str, node: fx.Node) -> str:
    """The activation that `node` in the graph of `scope` applies, with the approximation of a GELU."""
    if node.op != "call_module":
        approximate = node.kwargs.get("approximate", "none")
        return name_of(node) + ("" if approximate == "none" else f" {approximate}")
    module = site.graph.model.get_submodule(child_path(scope, node))
    is_tanh = isinstance(module, nn.GELU) and module.approximate == "tanh"
    return type(module).__name__.lower() + (" tanh" if is_tanh else "")
