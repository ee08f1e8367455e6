"""Operators and their sizes as fields of other configs, read back from JSON by their `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError

from surgery.errors import ArtifactError
from surgery.operators.base import OperatorConfig
from surgery.operators.dims import Dims

AnyOperator = Annotated[SerializeAsAny[OperatorConfig], BeforeValidator(OperatorConfig.from_data)]
"""A pydantic field for any operator config, a user's own included."""

AnyDims = Annotated[SerializeAsAny[Dims], BeforeValidator(Dims.from_data)]
"""A pydantic field for the sizes that an operator is built at, a user's own included."""


def operator_from_data(data: Mapping[str, object]) -> OperatorConfig:
    """Rebuild an operator config from what its `model_dump(mode="json")` gave.

    Raises:
        ArtifactError: the kind is unknown, or a field is unknown or of a wrong type.
    """
    try:
        operator: OperatorConfig = OperatorConfig.from_data(data)
    except PydanticCustomError as error:
        raise ArtifactError(f"operator: {error.message()}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'operator'}: {each['msg']}" for each in error.errors()
        )
        raise ArtifactError(f"operator {data.get('kind')!r} cannot be read: {problems}") from None
    return operator
