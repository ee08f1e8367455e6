"""Fuse linear maps that read the same tensor, such as q, k and v, and split one that is taken apart again."""

from __future__ import annotations

from typing import Literal

from torch import nn

from surgery.analysis.roles import Role
from surgery.operators import FusedLinear, LinearDims, LinearPart
from surgery.rewriting.pattern import Pattern, chain, fork, node
from surgery.rewriting.replacement import Call, New, Rewiring
from surgery.rewriting.rule import Rule
from surgery.rewriting.selection import Selection, given_or_all
from surgery.rewriting.site import Site

PIECES = node(function="chunk") | node(function="split") | node(function="tensor_split")


class FuseProjections(Rule):
    """Makes one linear map of several that read the same tensor; the function stays what it is."""

    kind: Literal["fuse_projections"] = "fuse_projections"
    pattern: Pattern = fork(node(), *[node(module_class="Linear", within="self_attention")] * 3)

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
        return Rewiring(
            modules={"fused": New(operator=FusedLinear(), dims=dims, sources=tuple(maps))},
            calls=(Call(name="pieces", module="fused", arguments={"input": f"{next(iter(maps))}(input)"}),),
            results={name: f"pieces[{number}]" for number, name in enumerate(maps)},
            keeps=("source",),
        )


class SplitProjections(Rule):
    """Makes several linear maps of one whose result is taken apart at once; the function stays what it is."""

    kind: Literal["split_projections"] = "split_projections"
    pattern: Pattern = chain(
        whole=node(module_class="Linear", within="self_attention"),
        pieces=PIECES,
    )

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
        """A map for each piece."""
        whole = site["whole"].module
        assert isinstance(whole, nn.Linear)
        widths = tuple(piece.shape[-1] for piece in site["pieces"].result)
        dims = LinearDims(inputs=whole.in_features, outputs=widths, bias=whole.bias is not None)
        used = [n for n in range(len(widths)) if site["pieces"].results((n,))]
        return Rewiring(
            modules={f"part_{n}": New(operator=LinearPart(index=n), dims=dims, sources=("whole",)) for n in used},
            calls=tuple(Call(name=f"piece_{n}", module=f"part_{n}", arguments={"input": "whole(input)"}) for n in used),
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
    pattern = fork(node(), *[node(module_class="Linear", within=within)] * count)
    return FuseProjections(pattern=pattern, layers=given_or_all(layers))


def split_projections(*, within: Role = "self_attention", layers: Selection | None = None) -> SplitProjections:
    """The rule that splits every linear map within operators of a role whose result is taken apart at once."""
    pattern = chain(whole=node(module_class="Linear", within=within), pieces=PIECES)
    return SplitProjections(pattern=pattern, layers=given_or_all(layers))


def _maps(site: Site) -> dict[str, nn.Linear]:
    maps = {name: item.module for name, item in site.items.items() if name != "source"}
    return {name: module for name, module in maps.items() if isinstance(module, nn.Linear)}
