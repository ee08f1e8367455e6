"""Replace attention by another sequence mixer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import fx
from torch.utils import _pytree as pytree

from surgery.errors import RewriteError
from surgery.operators import AnyOperator, MixerConfig, MixerDims, Policy, dims_of, extra_features
from surgery.rewrite.pattern import Pattern, node
from surgery.rewrite.replacement import Call, New, Replacement, Rewiring
from surgery.rewrite.rule import Rule
from surgery.rewrite.selection import Selection, all_layers
from surgery.rewrite.site import Item, Site, traced

Attention = Literal["self_attention", "joint_attention", "cross_attention"]

SOFTMAX_ATTENTION = "scaled_dot_product_attention"
PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class ReplaceAttention(Rule):
    """Puts `operator` in the place of an attention, as the paper's Hyena and window rows do (Table 4).

    Plain self-attention is replaced as a whole. Of attention that does more (norms and rotary embeddings of queries and
    keys, masks, a second stream of tokens), only the call of `scaled_dot_product_attention` is replaced, by the core of
    the operator; all projections stay.
    """

    operator: AnyOperator
    inherit: Policy = "projections"

    def check(self, site: Site) -> str | None:
        """Refuse what the operator can replace neither as a whole nor at its core."""
        whole = self._not_whole(site)
        if whole is None:
            return None
        if self.inherit == "random":
            return f"{whole}; its core can be replaced with inherit='projections'"
        core = self._not_at_core(site)
        return core and f"{whole}; nor can its core be replaced: {core}"

    def place(self, site: Site) -> Site:
        """The call of the softmax attention, where that is what is replaced."""
        core = None if self._not_whole(site) is None else _core_of(site)
        return site if core is None else Site(site.graph, {"attention": core})

    def replacement(self, site: Site) -> Replacement | Rewiring:
        """The operator at the width, heads and biases of the attention at `site`, or its core."""
        if self._not_whole(site) is None:
            return Replacement(operator=self.operator, dims=dims_of(site.module), inherit=self.inherit)
        core = _core_of(site)
        assert core is not None
        names = [name for name in PARAMETERS[:4] if _argument(core, name) is not None]
        return Rewiring(
            modules={"core": New(operator=self.operator, dims=_core_dims(core), core=True)},
            calls=(Call(name="mixed", module="core", arguments={n: f"attention({_key(core, n)})" for n in names}),),
            results={"attention": "mixed"},
        )

    def _not_whole(self, site: Site) -> str | None:
        """Why the attention cannot be replaced as a module."""
        if not site.first.is_module:
            return "is no module of its own but made of nodes"
        args, kwargs = site.arguments
        extra = [f"argument {i}" for i, a in enumerate(args[1:], 1) if _has_tensor(a)]
        extra += [name for name, a in kwargs.items() if _has_tensor(a) and name != "hidden_states"]
        if extra:
            return f"is called with {', '.join(extra)}, which {self.operator.kind} does not take"
        shape_in, shape_out = site.operator.in_shape, site.operator.out_shape
        if len(shape_in) != 3 or shape_in != shape_out:
            return f"maps {shape_in} to {shape_out}; a mixer maps (B, N, D) to the same shape"
        try:
            dims_of(site.module)
        except RewriteError as error:
            return str(error)
        features = extra_features(site.module)
        return f"has {', '.join(features)}, which {self.operator.kind} would lose" if features else None

    def _not_at_core(self, site: Site) -> str | None:
        """Why the core of the attention cannot be replaced."""
        core = _core_of(site)
        if core is None:
            return f"it does not call {SOFTMAX_ATTENTION} exactly once"
        plain = {"dropout_p": (None, 0, 0.0), "is_causal": (None, False), "scale": (None,), "enable_gqa": (None, False)}
        for name, values in plain.items():
            if _argument(core, name) not in values:
                return f"{SOFTMAX_ATTENTION} is called with {name}={_argument(core, name)!r}"
        if not isinstance(self.operator, MixerConfig):
            return f"{self.operator.kind} mixes no tokens"
        try:
            with torch.device("meta"):
                module = self.operator.core(_core_dims(core))
            with torch.no_grad():
                module(*(traced(_argument(core, name)) for name in PARAMETERS[:4]))
        except RewriteError as error:
            return str(error)
        return None


def replace_attention(
    operator: MixerConfig,
    *,
    role: Attention | None = None,
    layers: Selection | None = None,
    inherit: Policy = "projections",
) -> ReplaceAttention:
    """The rule that replaces attention by `operator` in the selected layers (all, if none are given).

    Args:
        operator: config of the new operator, e.g. `HyenaX(kernel=4)`.
        role: "self_attention", "joint_attention" or "cross_attention"; by default the first two, which mix one sequence.
        layers: `every(2)`, `indices(1, 3)` and the like.
        inherit: "projections" takes over the weights of q, k, v and o; "random" starts afresh; "exact" demands that the
            operator computes what the attention did.
    """
    pattern: Pattern = node(role) if role else node("self_attention") | node("joint_attention")
    return ReplaceAttention(pattern=pattern, layers=layers or all_layers(), operator=operator, inherit=inherit)


def _core_of(site: Site) -> Item | None:
    """The one call of softmax attention in what matched; None if there is not exactly one."""
    view, item = site.graph.view, site.first
    if item.is_subgraph:
        names = {node.name for node in item.nodes}
        found = [key for key in view.nodes if key[0] == item.scope and key[1] in names and _is_core(view.nodes[key])]
    else:
        found = [Item(site.graph, (path, n.name)).key for path, n in site.graph.nodes_below(item.path)
                 if _is_core(view.nodes[path, n.name])]  # fmt: skip
    return Item(site.graph, found[0]) if len(found) == 1 else None


def _is_core(attributes: Any) -> bool:
    return bool(attributes["function"] == SOFTMAX_ATTENTION)


def _key(core: Item, name: str) -> str:
    """How the call gives the parameter `name`: by position or by name."""
    position = str(PARAMETERS.index(name))
    return position if position in core.bound else name


def _argument(core: Item, name: str) -> Any:
    return core.bound.get(_key(core, name))


def _core_dims(core: Item) -> MixerDims:
    """Heads and their width; a core has no projections, so its biases are none."""
    _, heads, _, width = traced(_argument(core, "query")).shape
    return MixerDims(dim=heads * width, heads=heads, head_dim=width, qkv_bias=False, out_bias=False)


def _has_tensor(argument: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor | fx.Node) for leaf in pytree.tree_leaves(argument))
