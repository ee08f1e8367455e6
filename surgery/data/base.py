"""What training samples are made from, as a part of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from surgery.kinds import Kinded


class Data(Kinded):
    """Base of the configs that say where training samples come from."""


AnyData = Annotated[SerializeAsAny[Data], BeforeValidator(Data.from_data)]
"""A pydantic field for any of them; read back from JSON as the class of its kind."""
