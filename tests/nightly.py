"""What `make nightly` tries more often, or only it tries, as the suite has to stay quick.

A law that takes `examples(n)` is tried on `n` there, and on the first third of them in the suite. Of `thinned` parameters
the suite takes one in so many. A test marked `nightly` runs there alone: it repeats on more models, or in processes of
its own, what others show in the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

from surgery.testing import profiles

Test = TypeVar("Test", bound=Callable[..., Any])

IS_NIGHTLY = profiles.chosen() == "nightly"
SHARE = 3

nightly = pytest.mark.nightly


def examples(count: int, **options: Any) -> Callable[[Test], Test]:
    """How many examples of a law are tried in the nightly run; `options` are those of `hypothesis.settings`."""
    chosen = settings(max_examples=count if IS_NIGHTLY else max(1, count // SHARE), deadline=None, **options)
    return lambda test: pytest.mark.thorough(chosen(test))


def thinned(values: Iterable[Any], every: int) -> list[Any]:
    """Parameters of a test, of which the suite takes the first of each `every`; tuples are several arguments."""
    tuples = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*each, marks=() if n % every == 0 else nightly) for n, each in enumerate(tuples)]
