"""The base of everything that a user configures."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen pydantic model that refuses unknown keys: base of each part of a recipe and of operator configs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
