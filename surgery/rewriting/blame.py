"""An error in a function that a user has written becomes one line that says where it was called and where it failed."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from surgery.errors import ConfigError, RewriteError, SurgeryError, in_one_line

Result = TypeVar("Result")
OURS = Path(__file__).parents[1]


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """While open, an error is raised again as a RewriteError that names `where`, and the user's file and line."""
    try:
        yield
    except ConfigError as error:
        raise RewriteError(f"{where}: {error}") from error
    except SurgeryError:
        raise
    except Exception as error:
        raise RewriteError(f"{where}: {type(error).__name__}: {in_one_line(error)}{_line(error)}") from error


def asked(where: str, function: Callable[[Any], Any], value: Any, as_one: Callable[[Any], Result]) -> Result:
    """What a function of the user's says of `value`, as one truth or number; see `blaming`."""
    with blaming(where):
        return as_one(function(value))


def number(value: Any) -> float:
    """`value` as something that others can be ranked against.

    Raises:
        ValueError: it is NaN.
    """
    if math.isnan(value):
        raise ValueError("gives no number (NaN)")
    return float(value)


def _line(error: Exception) -> str:
    """Where `error` was raised, in the innermost code that is neither of this package nor installed."""
    frames = traceback.extract_tb(error.__traceback__)
    others = OURS.as_posix(), "site-packages", "<"  # the last one is of generated code
    own = [f for f in frames if not any(each in Path(f.filename).as_posix() for each in others)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
