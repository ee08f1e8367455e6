"""An operator that stands for something else is refused when the rule is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from torch import nn

from surgery.errors import ConfigError
from surgery.operators import (
    Blend,
    ConcatProject,
    ConvMLP,
    Dims,
    FullAttention,
    FusedLinear,
    GatedMLP,
    HyenaX,
    HyenaXMLP,
    LinearAttention,
    MixerConfig,
    MixerDims,
    MLPDims,
    OperatorConfig,
)
from surgery.recipe import Recipe
from surgery.rules import parallel_pairs, replace_attention, replace_mlp

if TYPE_CHECKING:
    from nowhere import Unknown

MAKERS: dict[str, Callable[..., Any]] = {
    "ReplaceAttention.operator": replace_attention,
    "ReplaceMLP.operator": replace_mlp,
    "ParallelPairs.joiner": parallel_pairs,
}
BLEND = Blend(parts=(FullAttention(), LinearAttention()))
ATTENTION, MLPS, JOIN, LINEAR = {
    "ReplaceAttention.operator": (HyenaX(), BLEND),
    "ReplaceMLP.operator": (GatedMLP(ratio=2), ConvMLP(ratio=2), HyenaXMLP()),
    "ParallelPairs.joiner": (ConcatProject(),),
    "": (FusedLinear(names=("a", "b")),),
}.items()
SAID = {
    ATTENTION[0]: ("stands for attention", "not for attention", "use replace_attention"),
    MLPS[0]: ("stands for an MLP", "not for an MLP", "use replace_mlp"),
    JOIN[0]: ("stands for the join of two blocks", "not for the join of two blocks", "use parallel_pairs"),
    LINEAR[0]: ("is built at LinearDims", "", "choose another operator"),
}
CASES = [(where, field, each) for where in MAKERS for field, given in (ATTENTION, MLPS, JOIN, LINEAR) for each in given]


@pytest.mark.parametrize(("where", "field", "operator"), CASES)
def test_an_operator_goes_where_it_stands_for(where: str, field: str, operator: OperatorConfig) -> None:
    if where == field:
        assert operator in dict(MAKERS[where](operator)).values()
        return
    stands, _, advice = SAID[field]
    with pytest.raises(ConfigError) as error:
        MAKERS[where](operator)
    assert str(error.value) == f"{where}: {type(operator).__name__} {stands}, {SAID[where][1]}; {advice}"


class OwnDims(Dims):
    """Sizes of a user's own."""


def for_mlp(self: Any, dims: MLPDims) -> nn.Module: ...  # type: ignore[empty-body]
def for_own(self: Any, sizes: OwnDims) -> nn.Module: ...  # type: ignore[empty-body]
def for_both(self: Any, dims: MLPDims | MixerDims) -> nn.Module: ...  # type: ignore[empty-body]
def with_more(self: Any, dims: Annotated[MLPDims, "more"]) -> nn.Module: ...  # type: ignore[empty-body]
def for_all(self: Any, dims: Dims) -> nn.Module: ...  # type: ignore[empty-body]
def for_any(self: Any, dims: Any) -> nn.Module: ...  # type: ignore[empty-body]
def unknown(self: Any, dims: Unknown) -> nn.Module: ...  # type: ignore[empty-body]
def unsaid(self, dims): ...  # type: ignore[no-untyped-def]


OWN = [
    (OperatorConfig, for_mlp, {MLPS[0]}),
    (OperatorConfig, with_more, {MLPS[0]}),
    (OperatorConfig, for_own, set()),
    (OperatorConfig, for_both, {ATTENTION[0], MLPS[0]}),
    *((OperatorConfig, each, set(MAKERS)) for each in (for_all, for_any, unknown, unsaid)),
    (MixerConfig, for_any, set(MAKERS)),
    *((MixerConfig, each, {ATTENTION[0]}) for each in (unknown, unsaid)),  # then its base says so
]


@pytest.mark.parametrize(("base", "build", "fits"), OWN)
def test_an_operator_of_a_users_own_says_so_by_its_annotation(base: type, build: Any, fits: set[str]) -> None:
    counts = {name: lambda *_: 0 for name in ("flops", "flops_mixing")}
    own = type(f"Own_{base.__name__}_{build.__name__}", (base,), {"build": build, "__module__": __name__, **counts})
    for where, make in MAKERS.items():
        if where in fits:
            make(own())
        else:
            with pytest.raises(ConfigError, match=f"^{where}: Own_"):
                make(own())


@pytest.mark.parametrize("field", [ATTENTION, MLPS])
def test_so_does_a_recipe_that_is_read(field: tuple[str, tuple[OperatorConfig, ...]]) -> None:
    where, (operator, *_) = field
    data = Recipe(model="digits-dit", rules=[MAKERS[where](operator)]).model_dump(mode="json")
    assert Recipe.model_validate(data).rules[0] == MAKERS[where](operator)
    data["rules"][0]["operator"] = ConcatProject().model_dump(mode="json")
    with pytest.raises(ConfigError, match="ConcatProject stands for the join of two blocks"):
        Recipe(**data)
