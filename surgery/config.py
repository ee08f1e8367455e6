"""The base of everything that a user configures."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, and refuses unknown keys: the base of each part of a recipe and of each operator config."""

    model_config = ConfigDict(frozen=True, extra="forbid")
