"""Replace attention by another sequence mixer."""

from __future__ import annotations

import torch

from surgery.errors import RewriteError
from surgery.operators import AnyOperator, MixerConfig, Policy, dims_of, extra_features
from surgery.rewrite.pattern import node
from surgery.rewrite.replacement import Replacement
from surgery.rewrite.rule import Rule
from surgery.rewrite.selection import Selection, all_layers
from surgery.rewrite.site import Site


class ReplaceAttention(Rule):
    """Puts `operator` in the place of a self-attention, as the paper's Hyena and window rows do (Table 4).

    The new operator mixes one stream of tokens (B, N, D) and gives the same shape; attention that is masked, rotated by
    position or conditioned by a second stream is skipped, with the reason in the plan.
    """

    operator: AnyOperator
    inherit: Policy = "projections"

    def check(self, site: Site) -> str | None:
        """Refuse a call that passes more than the tokens, and shapes that a mixer cannot keep."""
        if not site.first.is_module:
            return "is no module of its own but made of nodes"
        args, kwargs = site.arguments
        extra = [f"argument {i}" for i, a in enumerate(args[1:], 1) if isinstance(a, torch.Tensor)]
        extra += [name for name, a in kwargs.items() if isinstance(a, torch.Tensor) and name != "hidden_states"]
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

    def replacement(self, site: Site) -> Replacement:
        """The operator at the width, heads and biases of the attention at `site`."""
        return Replacement(operator=self.operator, dims=dims_of(site.module), inherit=self.inherit)


def replace_attention(
    operator: MixerConfig, *, layers: Selection | None = None, inherit: Policy = "projections"
) -> ReplaceAttention:
    """The rule that replaces self-attention by `operator` in the selected layers (all, if none are given).

    Args:
        operator: config of the new operator, e.g. `HyenaX(kernel=4)`.
        layers: `every(2)`, `indices(1, 3)` or `all_layers()`.
        inherit: "projections" takes over the weights of q, k, v and o; "random" starts afresh.
    """
    return ReplaceAttention(
        pattern=node("self_attention"),
        layers=layers or all_layers(),
        operator=operator,
        inherit=inherit,
    )
