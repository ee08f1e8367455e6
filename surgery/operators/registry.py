"""The operators that an artifact or a recipe can name, by their `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field, SerializeAsAny, TypeAdapter, ValidationError

from surgery.errors import ArtifactError
from surgery.operators.base import MixerDims, OperatorConfig
from surgery.operators.conv_mlp import ConvMLP
from surgery.operators.full import FullAttention
from surgery.operators.fused import FusedLinear, LinearDims, LinearPart
from surgery.operators.gated_mlp import GatedMLP
from surgery.operators.grouped import GroupedQueryAttention
from surgery.operators.hidden import HiddenDims, HiddenLayer
from surgery.operators.hyena import HyenaSE, HyenaX, HyenaY
from surgery.operators.hyena_mlp import HyenaXMLP
from surgery.operators.joiner import ConcatProject, JoinerDims, SumDeltas, WeightedSum, ZeroJoin
from surgery.operators.linear import LinearAttention
from surgery.operators.mamba import Mamba2
from surgery.operators.mlp import MLP, MLPDims
from surgery.operators.neighbourhood import NeighbourhoodAttention
from surgery.operators.window import SlidingWindow

Known = (
    HyenaSE
    | HyenaX
    | HyenaY
    | SlidingWindow
    | NeighbourhoodAttention
    | LinearAttention
    | GroupedQueryAttention
    | FullAttention
    | Mamba2
    | MLP
    | GatedMLP
    | ConvMLP
    | HyenaXMLP
    | HiddenLayer
    | FusedLinear
    | LinearPart
    | ConcatProject
    | SumDeltas
    | WeightedSum
    | ZeroJoin
)
Operator = Annotated[Known, Field(discriminator="kind")]
"""Any known operator config; as a pydantic field it is read back as the right class."""

_ADAPTER: TypeAdapter[Known] = TypeAdapter(Operator)


def is_known(operator: OperatorConfig) -> bool:
    """Whether `operator` is read back from JSON as what it is."""
    return isinstance(operator, get_args(Known))


def operator_from_data(data: Mapping[str, object]) -> Known:
    """Rebuild an operator config from what its `model_dump(mode="json")` gave.

    Raises:
        ArtifactError: the kind is unknown, or a field is unknown or of a wrong type.
    """
    try:
        return _ADAPTER.validate_python(dict(data))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'operator'}: {each['msg']}" for each in error.errors()
        )
        raise ArtifactError(f"operator {data.get('kind')!r} cannot be read: {problems}") from None


def _from_json(value: Any) -> Any:
    return _ADAPTER.validate_python(value) if isinstance(value, Mapping) else value


AnyOperator = Annotated[SerializeAsAny[OperatorConfig], BeforeValidator(_from_json)]
"""A pydantic field for any operator config, a user's own included; from JSON only known ones are read."""

AnyDims = MixerDims | MLPDims | JoinerDims | LinearDims | HiddenDims
"""A pydantic field for the sizes that an operator is built at."""
