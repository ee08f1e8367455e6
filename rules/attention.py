"""Replace attention by another sequence mixer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from surgery.analysis.readers import readers_of
from surgery.errors import RewriteError, first_line
from surgery.operators import MixerConfig, MixerDims, Policy, dims_of, extra_features
from surgery.recording.own_modes import OwnDraws
from surgery.rewriting.pattern import Pattern
from surgery.rewriting.pattern_forms import node
from surgery.rewriting.replacement import Call, New, Replacement, Rewiring
from surgery.rewriting.rule import Rule
from surgery.rewriting.selection import Selection, every, given_or_all
from surgery.rewriting.site import Site
from surgery.rewriting.values import transposed
from surgery.rules.core import FACTORS, GROUPED, PARAMETERS, SoftmaxAttention, core_of
from surgery.rules.fields import Mixer
from surgery.rules.plain import LONGEST, batch_axis, unlike_attention

MOST_MASKED = 1 << 22
"""Elements of queries with which a mask is tried while planning; of more, the first forward tells."""

Attention = Literal["self_attention", "joint_attention", "cross_attention"]


class ReplaceAttention(Rule):
    """Puts `operator` in the place of an attention, as the paper's Hyena and window rows do (Table 4).

    Plain self-attention is replaced as a whole. Of attention that does more (norms and rotary embeddings of queries and
    keys, masks, a second stream of tokens), or whose projections have other names than in diffusers, only softmax(q k^T /
    sqrt(K)) v is replaced, by the core of the operator; all projections stay. What is causal is for causal operators.
    """

    kind: Literal["replace_attention"] = "replace_attention"
    operator: Mixer
    inherit: Policy = "projections"

    def check(self, site: Site) -> str | None:
        """Refuse what the operator can replace neither as a whole nor at its core."""
        if _is_multihead(site):
            return self._not_multihead(site)
        whole = self._not_whole(site)
        if whole is None:
            return None
        if self.inherit == "random":
            return f"{whole}; its core can be replaced with inherit='projections'"
        core = self._not_at_core(site)
        return core and f"{whole}; nor can its core be replaced: {core}"

    def place(self, site: Site) -> Site:
        """The softmax attention, where that is what is replaced."""
        core = None if _is_multihead(site) or self._not_whole(site) is None else core_of(site)
        return site if core is None else Site(site.graph, core.items)

    def replacement(self, site: Site) -> Replacement | Rewiring:
        """The operator at the width, heads and biases of the attention at `site`, or its core."""
        if _is_multihead(site):
            return self._instead_of_multihead(site)
        if self._not_whole(site) is None:
            return Replacement(operator=self.operator, dims=dims_of(site.module), inherit=self.inherit)
        core = core_of(site)
        assert core is not None
        return Rewiring(
            modules={"core": New(operator=self.operator, dims=_dims(site, core), inherit=self.inherit, core=True)},
            calls=(Call(name="mixed", module="core", arguments=core.values()),),
            results={"attention": core.instead("mixed")},
            repeated=core.is_called and site.first.is_module,
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
        return self._unlike(site) or self._more_than_plain(site)

    def _more_than_plain(self, site: Site) -> str | None:
        """What the forward does besides projections and softmax(q k^T / sqrt(K)) v."""
        core = core_of(site)
        masked = "a mask of its own" if core and core.is_masked else None
        found = core and (core.special() or masked or core.between())
        if found:
            return f"has {found}, which {self.operator.kind} would lose"
        return _too_long(site, core) or unlike_attention(site)

    def _not_multihead(self, site: Site) -> str | None:
        """Why an `nn.MultiheadAttention`, which takes three tensors and gives two, cannot be replaced."""
        bound = site.first.bound
        given = [name for name in ("key_padding_mask", "attn_mask") if bound[name] is not None]
        if bound["is_causal"]:
            given.append("is_causal")
        if given:
            return f"is called with {', '.join(given)}, which {self.operator.kind} does not take"
        if not bound["query"] is bound["key"] is bound["value"]:
            return "its queries, keys and values are not the same tensor; a mixer mixes one sequence"
        if readers := [user for node in site.first.results((1,)) for user in readers_of(node)]:
            return f"its attention weights are read by {readers[0].name}"
        return self._unlike(site) or unlike_attention(site)

    def _unlike(self, site: Site) -> str | None:
        """How the module differs from plain self-attention of diffusers or torch."""
        shape_in, shape_out = site.operator.in_shape, site.operator.out_shape
        if len(shape_in) != 3 or shape_in != shape_out:
            return f"maps {shape_in} to {shape_out}; a mixer maps (B, N, D) to the same shape"
        try:
            dims_of(site.module)
        except RewriteError as error:
            return str(error)
        features = extra_features(site.module)
        return f"has {', '.join(features)}, which {self.operator.kind} would lose" if features else None

    def _instead_of_multihead(self, site: Site) -> Rewiring:
        """The operator on the queries, in the place of the first result; both with the batch before the tokens for it."""
        (name,), axes = site.items, (0, 1) if batch_axis(site.module) else None
        new = New(operator=self.operator, dims=dims_of(site.module), sources=(name,), inherit=self.inherit)
        return Rewiring(
            modules={"mixer": new},
            calls=(
                Call(name="mixed", module="mixer", arguments={"hidden_states": transposed(f"{name}(query)", axes)}),
            ),
            results={f"{name}[0]": transposed("mixed", axes)},
        )

    def _not_at_core(self, site: Site) -> str | None:
        """Why the core of the attention cannot be replaced."""
        core = core_of(site)
        if core is None:
            return "it does not compute softmax(q k^T / sqrt(K)) v of heads (B, H, N, K) exactly once"
        mixer = self.operator if isinstance(self.operator, MixerConfig) else None
        is_causal = mixer is not None and mixer.is_causal
        if special := core.special(is_causal):
            # were it causal, that alone would not be in its way
            advice = f"; {mixer.causal_advice}" if mixer and not is_causal and core.special(causal=True) is None else ""
            return f"its softmax attention is called with {special}{advice}"
        return core.unfit() or self._unfit(site, core)

    def _unfit(self, site: Site, core: SoftmaxAttention) -> str | None:
        """Why the operator's core does not fit where that of the attention is."""
        if not isinstance(self.operator, MixerConfig):
            return f"{self.operator.kind} mixes no tokens"
        given, dims = core.traced_values(), _dims(site, core)
        try:
            with torch.device("meta"):
                module = self.operator.core(dims).to(given["query"].dtype)
            with torch.no_grad():
                module(**given)
                self._try_mask(core, dims, given)
        except RewriteError as error:
            return str(error)
        except Exception as error:  # whatever else it is, it is this site's
            return f"{self.operator.kind} fails on it: {first_line(error)}"
        root = site.first.path if site.first.is_module else site.scope
        if reason := core.why_features_vary(root):
            return reason
        if next(module.parameters(), None) is not None and (reason := core.why_heads_vary(root)):
            return f"{reason}, for which {self.operator.kind} would have weights"
        if self.inherit == "exact" and (reason := module.why_inexact()):
            return f"{self.operator.kind} cannot keep its function: {reason}; use inherit='projections'"
        return None

    def _try_mask(self, core: SoftmaxAttention, dims: MixerDims, given: dict[str, Any]) -> None:
        """Raise RewriteError if the core cannot use the mask that the forward itself makes: what it is, is known."""
        fixed = {name: core.fixed(name) for name in ("attn_mask", "hidden", "seen")}
        if all(mask is None for mask in fixed.values()) or given["query"].numel() > MOST_MASKED:
            return
        mask = fixed["attn_mask"]
        if mask is not None and mask.dtype != torch.bool:
            fixed["attn_mask"] = mask.float()
        zeros = {name: torch.zeros(given[name].shape, device="cpu") for name in FACTORS}
        assert isinstance(self.operator, MixerConfig)
        with OwnDraws():
            module = self.operator.core(dims)
        fill = given.get("fill")
        fill = fill if isinstance(fill, int | float) else -torch.inf
        module(**zeros, **fixed, fill=fill, enable_gqa=given.get(GROUPED, False))


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
        inherit: "projections" takes over the weights of q, k, v and o; "fitted" solves then, in a run, for what the
            output is linear in (`surgery.rewrite` has no data for that, so it starts as "projections"); "random" starts
            afresh; "exact" demands that the operator computes what the attention did.
    """
    pattern: Pattern = node(role) if role else node("self_attention") | node("joint_attention")
    return ReplaceAttention(pattern=pattern, layers=given_or_all(layers), operator=operator, inherit=inherit)


def alternate(
    *operators: MixerConfig,
    role: Attention | None = None,
    layers: Selection | None = None,
    inherit: Policy = "projections",
) -> tuple[ReplaceAttention, ...]:
    """Rules that put `operators` into layers in turn, of `alternate(a, b)` a into the first, third and so on.

    What one cannot see in its layer, the other may pass on in the next, as a window and a neighbourhood with steps do.

    Args:
        operators: configs of the new operators.
        role, layers, inherit: as of `replace_attention`. Turns are those of the selected layers.
    """
    chosen, count = given_or_all(layers), len(operators)
    return tuple(
        replace_attention(operator, role=role, layers=every(count, first=turn, of=chosen), inherit=inherit)
        for turn, operator in enumerate(operators)
    )


def _dims(site: Site, core: SoftmaxAttention) -> MixerDims:
    """Heads, their width, and whose they are; a core has no projections, so its biases are none."""
    _, *heads_of, _, width = core.traced("query").shape
    heads = heads_of[0] if heads_of else 1
    across = site.operator.role == "cross_attention"
    return MixerDims(dim=heads * width, heads=heads, head_dim=width, qkv_bias=False, out_bias=False, across=across)


def _too_long(site: Site, core: SoftmaxAttention | None) -> str | None:
    """That there are too many tokens to try what it does with them, unless the graph tells that all attend to all."""
    tokens = site.operator.in_shape[1]
    shapes = {core.traced(name).shape[-2] for name in PARAMETERS[:2]} if core and not core.unfit() else set()
    if tokens <= LONGEST or shapes == {tokens}:
        return None
    return "does not compute softmax(q k^T / sqrt(K)) v of all its tokens exactly once"


def _is_multihead(site: Site) -> bool:
    return site.first.is_module and isinstance(site.module, nn.MultiheadAttention)


def _has_tensor(argument: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor | fx.Node) for leaf in pytree.tree_leaves(argument))
