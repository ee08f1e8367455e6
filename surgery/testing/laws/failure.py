"""A commit that fails at any step leaves no trace."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from random import Random
from types import FunctionType
from typing import Any
from unittest.mock import patch

import torch

from surgery.rewriting import commit as committing
from surgery.rewriting.commit import commit
from surgery.rewriting.graphs import edited_module as editing
from surgery.rewriting.graphs import rewired as applying
from surgery.rewriting.replacement import New, Replacement
from surgery.testing.case import Case
from surgery.testing.compare import codes, require, require_same, state_of, weights

HOMES = (committing, editing, applying, New, Replacement)
"""Modules and classes whose functions are the steps of a commit."""


class Injected(Exception):
    """The failure."""


def a_failure_changes_nothing(case: Case, steps: int = 12) -> None:
    """If any call of a function fails, then model, graphs and random state are as before, and a new commit succeeds.

    Args:
        case: its edits are committed again and again.
        steps: how many calls, drawn at random from all, are to fail in turn.
    """
    before, code, state = state_of(case.model), codes(case.graph), torch.get_rng_state()
    expected = weights(case.student)
    with _failing_at(None) as calls:
        commit(case.graph, case.plan.edits)
    for step in sorted(Random(len(calls)).sample(range(len(calls)), min(steps, len(calls)))):
        where = f"after a failure in {calls[step]}, which is call {step}"
        require(_fails(case, step), f"{where}: the failure was swallowed")
        require_same(before, state_of(case.model), f"the model {where}")
        require_same(code, codes(case.graph), f"the graphs {where}")
        require(torch.equal(state, torch.get_rng_state()), f"the random state is changed {where}")
    require_same(expected, weights(commit(case.graph, case.plan.edits)), "the student of a commit after failed ones")


def _fails(case: Case, step: int) -> bool:
    """Whether the commit fails because its call number `step` does."""
    try:
        with _failing_at(step):
            commit(case.graph, case.plan.edits)
    except Exception as error:
        return isinstance(error, Injected) or isinstance(error.__cause__, Injected)
    return False


@contextlib.contextmanager
def _failing_at(step: int | None) -> Iterator[list[str]]:
    """While open, the call number `step` of a function of `HOMES` fails; gives the names of those called so far."""
    calls: list[str] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            calls.append(function.__qualname__)
            if len(calls) - 1 == step:
                raise Injected(function.__qualname__)
            return function(*args, **kwargs)

        return run

    with contextlib.ExitStack() as stack:
        for home, name, function in _steps():
            stack.enter_context(patch.object(home, name, counted(function)))
        yield calls


def _steps() -> Iterator[tuple[object, str, FunctionType]]:
    """The functions of surgery that `HOMES` hold, each at all places where it is looked up."""
    for home in HOMES:
        for name, value in list(vars(home).items()):
            is_ours = isinstance(value, FunctionType) and value.__module__.startswith("surgery.")
            if is_ours and not name.startswith("__"):
                yield home, name, value
