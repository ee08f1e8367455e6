"""Fuse linear maps that read the same tensor, such as q, k and v, and split one that is taken apart again."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Literal

from torch import nn

from surgery.analysis.roles import Role
from surgery.operators import FusedLinear, FusedLinearMap, LinearDims, LinearPart, Pieces
from surgery.rewriting.pattern import NodeTest, Pattern
from surgery.rewriting.pattern_forms import chain, fork, node
from surgery.rewriting.replacement import Call, New, Rewiring
from surgery.rewriting.rule import Rule
from surgery.rewriting.selection import Selection, given_or_all
from surgery.rewriting.site import Site

PIECES = (
    node(function="chunk") | node(function="split") | node(function="tensor_split") | node(module_class="FeaturePieces")
)


def _linear(within: Role, *others: str) -> NodeTest:
    """Linear maps within operators of a role: plain ones, those that a split one has left, and `others` by class."""
    plain = node(module_class="Linear", within=within)
    return reduce(or_, [node(module_class=name, within=within) for name in ("LinearPartMap", *others)], plain)


class FuseProjections(Rule):
    """Makes one linear map of several that read the same tensor; the function stays what it is."""

    kind: Literal["fuse_projections"] = "fuse_projections"
    pattern: Pattern = fork(node(), *[_linear("self_attention")] * 3)

    def check(self, site: Site) -> str | None:
        """Refuse maps that do not read the very same tensor, or of which only some have a bias."""
        maps = _maps(site)
        other = next((name for name in maps if site[name].bound["input"] is not site["source"].node), None)
        if other is not None:
            return f"{site[other].path} reads a view of what the others read"
        if len({module.bias is None for module in maps.values()}) > 1:
            return "only some of the linear maps have a bias"
        return None

    def replacement(self, site: Site) -> Rewiring:
        """One map, whose pieces stand for the results of the old ones."""
        maps = _maps(site)
        first = next(iter(maps.values()))
        dims = LinearDims(
            inputs=first.in_features,
            outputs=tuple(each.out_features for each in maps.values()),
            bias=first.bias is not None,
        )
        names = tuple(str(site[name].node.target) for name in maps)
        return Rewiring(
            modules={
                "fused": New(operator=FusedLinear(names=names), dims=dims, sources=tuple(maps)),
                "pieces": New(operator=Pieces(), dims=dims),
            },
            calls=(
                Call(name="whole", module="fused", like=next(iter(maps))),
                Call(name="parts", module="pieces", arguments={"input": "whole"}),
            ),
            results={name: f"parts[{number}]" for number, name in enumerate(maps)},
            keeps=("source",),
        )


class SplitProjections(Rule):
    """Makes several linear maps of one whose result is taken apart at once; the function stays what it is."""

    kind: Literal["split_projections"] = "split_projections"
    pattern: Pattern = chain(whole=_linear("self_attention", "FusedLinearMap"), pieces=PIECES)

    def check(self, site: Site) -> str | None:
        """Refuse a result that is read as a whole too, or taken apart along another axis than the features."""
        readers = [user for user in site["whole"].node.users if user is not site["pieces"].node]
        if readers:
            return f"the whole result is also read by {readers[0].name}"
        widths = [piece.shape[-1] for piece in site["pieces"].result]
        if sum(widths) != site["whole"].result.shape[-1]:
            return "the result is not taken apart along its features"
        return None

    def replacement(self, site: Site) -> Rewiring:
        """A map for each piece; those of maps that were fused go back to their places."""
        whole = site["whole"].module
        assert isinstance(whole, nn.Linear)
        widths = tuple(piece.shape[-1] for piece in site["pieces"].result)
        dims = LinearDims(inputs=whole.in_features, outputs=widths, bias=whole.bias is not None)
        used = [n for n in range(len(widths)) if site["pieces"].results((n,))]
        places = whole.config.names if isinstance(whole, FusedLinearMap) else [None] * len(widths)
        return Rewiring(
            modules={
                f"part_{n}": New(operator=LinearPart(index=n), dims=dims, sources=("whole",), at=places[n])
                for n in used
            },
            calls=tuple(Call(name=f"piece_{n}", module=f"part_{n}", like="whole") for n in used),
            results={f"pieces[{n}]": f"piece_{n}" for n in used},
        )


def fuse_projections(
    count: int = 3, *, within: Role = "self_attention", layers: Selection | None = None
) -> FuseProjections:
    """The rule that fuses every `count` linear maps of the same tensor within operators of a role.

    Args:
        count: 3 for q, k and v; 2 for k and v of cross-attention.
        within: role of the operators.
        layers: where.
    """
    pattern = fork(node(), *[_linear(within)] * count)
    return FuseProjections(pattern=pattern, layers=given_or_all(layers))


def split_projections(*, within: Role = "self_attention", layers: Selection | None = None) -> SplitProjections:
    """The rule that splits every linear map within operators of a role whose result is taken apart at once."""
    pattern = chain(whole=_linear(within, "FusedLinearMap"), pieces=PIECES)
    return SplitProjections(pattern=pattern, layers=given_or_all(layers))


def _maps(site: Site) -> dict[str, nn.Linear]:
    maps = {name: item.module for name, item in site.items.items() if name != "source"}
    return {name: module for name, module in maps.items() if isinstance(module, nn.Linear)}
