"""The checks that generated code runs. They stand in the graph as ordinary `call_function` nodes."""

from __future__ import annotations

from typing import Any


class GuardFailed(Exception):
    """A recording does not cover the sizes at hand; its scope may hold, or make, another one that does."""


def require(actual: Any, expected: Any, condition: str) -> None:
    """Stop unless `actual` is what it was when the graph was recorded.

    Args:
        actual: the value now.
        expected: the value at recording.
        condition: how the value is computed, for the message, e.g. `hidden_states.shape[1] == 64`.
    """
    if actual != expected:
        raise GuardFailed(f"{condition} was {expected!r} when traced and is {actual!r} now")
