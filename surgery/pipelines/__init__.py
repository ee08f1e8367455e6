"""A diffusers pipeline as the source of truth: how it feeds its transformer, measured."""

from surgery.pipelines.parts import Branch, Condition, Schedule
from surgery.pipelines.probe import measure
from surgery.pipelines.wiring import Wiring

__all__ = ["Branch", "Condition", "Schedule", "Wiring", "measure"]
