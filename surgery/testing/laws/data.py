"""Rules, edits and plans are data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from surgery.rewriting import Plan
from surgery.rewriting.commit import commit
from surgery.rewriting.selection import Top, Where
from surgery.testing.case import Case
from surgery.testing.compare import require, require_same, weights
from surgery.testing.laws.matching import pattern_survives_json


def data_survives_json(case: Case) -> None:
    """What is written as JSON and read again is the same, and edits that were read give the same student.

    The user's own operators and rules included; only a selection by a function may be one that JSON cannot hold.
    """
    for rule in case.rules:
        pattern_survives_json(rule.pattern)
        if _is_plain(rule):
            again = type(rule).model_validate_json(rule.model_dump_json())
            require(again == rule, f"{rule.name}: JSON gives {again!r} for {rule!r}")
    if not _is_plain(case.plan):
        return
    planned = Plan.model_validate_json(case.plan.model_dump_json())
    require(planned == case.plan, f"the plan: JSON gives {planned!r} for {case.plan!r}")
    student = commit(case.graph, planned.edits)
    require_same(weights(case.student), weights(student), "the student of edits that were read from JSON")


def _is_plain(config: BaseModel) -> bool:
    return not any(isinstance(part, Where | Top) for part in _parts(config))


def _parts(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
