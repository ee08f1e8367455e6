"""What training samples are made from, as a part of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SerializeAsAny

from surgery.kinds import Kinded

DIGITS = "digits"
"""What a recipe calls the handwritten digits that come with surgery."""
FASHION = "fashion-mnist"
"""What it may call `FashionMNIST()`."""


class Data(Kinded):
    """Base of the configs that say where training samples come from."""


def _read(value: Any) -> Any:
    if value == FASHION:
        return Data.from_data({"kind": FASHION})
    if isinstance(value, str) and value != DIGITS:
        raise ValueError(
            f"unknown data {value!r}; use {DIGITS!r}, {FASHION!r}, or Latents({value!r}) of a file of latents"
        )
    return value if value == DIGITS else Data.from_data(value)


AnyData = Annotated[Literal["digits"] | SerializeAsAny[Data], BeforeValidator(_read)]
"""A pydantic field for any of them, or the word for the embedded ones; read back from JSON as the class of its kind."""
