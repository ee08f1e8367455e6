"""Artifacts: a student as safetensors and JSON, rebuilt from (base, edits, weights). No pickle, no code."""

from surgery.artifact.description import is_artifact
from surgery.artifact.loading import load
from surgery.artifact.saving import save

__all__ = ["is_artifact", "load", "save"]
