"""A diffusers pipeline as the source of truth: how it feeds its transformer, measured."""

from surgery.pipelines.probe import measure
from surgery.pipelines.wiring import Branch, Condition, Schedule, Wiring

__all__ = ["Branch", "Condition", "Schedule", "Wiring", "measure"]
